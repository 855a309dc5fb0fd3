#pragma once
/* Attention's heads spread over ranks: tests of parallel/spread.h, part of the program `rows`. */

void heads_of_ranks(void **state);
void spread_values(void **state);
void spread_refuses(void **state);
