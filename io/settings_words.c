#include "io/settings_fill.h"

#include <ctype.h>
#include <string.h>

enum { WORDS_LENGTH = 40 };

static int words_min(int a, int b)
{
    return a < b ? a : b;
}

/* The same letter, capital or not? */
static bool words_same(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

/* Edit distance with swaps of neighbours (optimal string alignment), whatever the capitals; far away
 * for long words. */
static int words_distance(const char *a, size_t na, const char *b, size_t nb)
{
    int d[WORDS_LENGTH + 1][WORDS_LENGTH + 1];
    if (na > WORDS_LENGTH || nb > WORDS_LENGTH) return WORDS_LENGTH;
    for (size_t i = 0; i <= na; i++) {
        for (size_t j = 0; j <= nb; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (int)(i + j);
                continue;
            }
            int same = words_same(a[i - 1], b[j - 1]) ? 0 : 1;
            d[i][j] = words_min(d[i - 1][j - 1] + same, words_min(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = words_min(d[i][j], d[i - 2][j - 2] + 1);
        }
    }
    return d[na][nb];
}

static void words_add(lh_words *w, const char *word, size_t n)
{
    size_t used = strlen(w->all);
    if (used + n + 3 < sizeof w->all) {
        if (used > 0) memcpy(w->all + used, ", ", 2), used += 2;
        memcpy(w->all + used, word, n);
        w->all[used + n] = '\0';
    }
    int distance = words_distance(w->wrong, strlen(w->wrong), word, n);
    /* Near: a third of the letters may be wrong, at least one. */
    int near = n < 6 ? 1 + (n > 3) : (int)n / 3;
    if (distance > near || n >= sizeof w->near || (w->near[0] != '\0' && distance >= w->distance))
        return;
    w->distance = distance;
    memcpy(w->near, word, n);
    w->near[n] = '\0';
}

void lh_words_add(lh_words *words, const char *choices)
{
    for (;;) {
        size_t n = strcspn(choices, "|");
        words_add(words, choices, n);
        if (choices[n] == '\0') return;
        choices += n + 1;
    }
}

const char *lh_words_hint(const lh_words *words, const char *what, char *buf, size_t bytes)
{
    buf[0] = '\0';
    if (words->near[0] != '\0')
        (void)snprintf(buf, bytes, "did you mean '%s'?", words->near);
    else if (words->all[0] != '\0')
        (void)snprintf(buf, bytes, "%s: %s", what, words->all);
    return buf;
}
