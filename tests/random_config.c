/* random_config SEED NUMBER RANKS STEM: prints configuration NUMBER of a seed as an experiment file
 * (tests/lh_random.h), whose first line is a comment that says of which kind it is, and, of a broken one,
 * "must name TEXT" in a second line. random_config STEM writes the data files that they name. */
#include "tests/lh_random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lh_status print_config(char **argv)
{
    lh_random r;
    char text[LH_RANDOM_BYTES];
    lh_config *config = NULL;
    uint64_t seed = strtoull(argv[1], NULL, 10);
    int64_t number = strtoll(argv[2], NULL, 10);
    int ranks = (int)strtol(argv[3], NULL, 10);
    lh_random_draw(seed, number, ranks, argv[4], &r);
    lh_random_text(&r, text);
    if (r.kind == LH_RANDOM_BROKEN) (void)printf("# must name %s\n", r.expected);
    /* what is not refused must end soon */
    if (r.kind == LH_RANDOM_WILD &&
        lh_config_parse(text, strlen(text), "wild", 0, &config) == LH_OK &&
        !lh_random_affordable(config))
        (void)printf("# large\n");
    (void)fputs(text, stdout);
    lh_error_clear();
    lh_config_destroy(&config);
    return LH_OK;
}

int main(int argc, char **argv)
{
    lh_status st = LH_ERR_USAGE;
    if (argc == 2) st = lh_random_files(argv[1]);
    if (argc == 5) st = print_config(argv);
    if (st != LH_OK) (void)fprintf(stderr, "random_config: %s\n", lh_error_text());
    return st != LH_OK;
}
