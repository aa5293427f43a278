/* One test function per file of the core. Each ends the program at the first failed check. */
#ifndef TEST_CORE_H
#define TEST_CORE_H

#include "core/levels.h"

void test_address_set(void);
void test_half(void);
void test_y5(void);
void test_overlap(void);
void test_parallel(void);
void test_levels(void);

/* Operations, at one level. */
void test_ema(y5_level level);
void test_sparsity(y5_level level);
void test_prune(y5_level level);
void test_prune_ties(y5_level level);
void test_scale_img(y5_level level);
void test_fuse(y5_level level);
void test_mt19937(y5_level level);
void test_races(y5_level level); /* all operations */

#endif
