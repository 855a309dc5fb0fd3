#pragma once
/* Text whose origin nobody vouches for. */
#include <stddef.h>

/* lhi_utf8 - length of the UTF-8 sequence at s, zero-terminated; 0 when there is none (RFC 3629: no overlong
 * forms, no surrogates). Local, pure. */
size_t lhi_utf8(const unsigned char *s);
