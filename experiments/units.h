#pragma once
/* Numbers for people: three digits and a unit. */
#include <stdbool.h>
#include <stdint.h>

enum { LH_UNITS_TEXT = 48 };

/* lh_units_bytes - "12.3 MiB"; lh_units_flops - "4.56 TFLOP"; lh_units_count - "1.05 M", up to 99,999
 * as it is; lh_units_range - "12", or "12-34" where they differ. Into text of LH_UNITS_TEXT bytes, which
 * they return. Local, pure.
 * lh_units_length - of a sequence and its like: "4k", "1M" for multiples of 2^10 and 2^20, else the number. */
const char *lh_units_bytes(double x, char *text);
const char *lh_units_flops(double x, char *text);
const char *lh_units_count(double x, char *text);
const char *lh_units_length(double x, char *text);
const char *lh_units_range(int64_t least, int64_t most, char *text);

/* lh_units_duration - the seconds that text says: a number alone or followed by s, m, h or d ("90", "45m",
 * "1.5h"), MM:SS, HH:MM:SS, or D-HH:MM:SS as Slurm writes it. false: it says none, or not more than 0.
 * Local, pure. */
bool lh_units_duration(const char *text, double *seconds);
