/* Sanitizer builds only: libraries that Open MPI loads stay loaded, so that the leak checker at the
 * end of the process can name them and tests/lsan.supp can tell their leaks from ours. */
int dlclose(void *handle);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}
