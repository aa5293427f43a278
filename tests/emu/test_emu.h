/* What the files of the emulator's test program share. */
#ifndef TEST_EMU_H
#define TEST_EMU_H

#include "core/ops.h"
#include "emulator.h"
#include "native/support.h"
#include "y5_cuda.h"

/* One function per operation, the last five over all of them. */
void test_ema(void);
void test_sparsity(void);
void test_fuse(void);
void test_prune(void);
void test_scale_img(void);
void test_refusals(void);
void test_failures(void);
void test_changing(void);
void test_halfway(void);
void test_order(void);
void test_grid(void);

/* The emulated library's table; device 0, the default stream; the core's best level, one thread. */
extern const y5_cuda_api *api;
extern const y5_cuda_where here;
extern const y5_run core;

/* Makes the library take the device for one that was reset, and load everything anew. */
void forget_device(void);

/* Other orders of threads and blocks, other shares of the work, counters at 0. */
void shake_machine(void);

/* Calls a function of the table; ends the program where that did not succeed. */
#define CALL(function, ...)                                                                        \
    do {                                                                                           \
        y5_cuda_error problem;                                                                     \
        expect_ok(api->function(__VA_ARGS__, &problem), &problem, #function);                      \
    } while (0)
void expect_ok(y5_cuda_status status, const y5_cuda_error *error, const char *what);

/* Ends the program where there were not so many launches since the machine was shaken. */
void expect_launches(int64_t launches);

/* An array of a floating type, full of random numbers, that starts up to 3 elements behind an
 * aligned address and has nothing behind it; free_all() frees the block. */
typedef struct {
    char *block;
    char *data;
    int64_t bytes;
} array;

array array_of(int64_t numel, y5_dtype dtype);
array copy_of(const array *original);

/* So much memory for prune, full of rubbish. */
char *workspace_of(int64_t bytes);

/* A number of elements: often around a chunk's or a vector's end. */
int64_t random_numel(void);

#endif
