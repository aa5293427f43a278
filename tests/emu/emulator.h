/* What a test sets up on the emulated machine, and reads afterwards. Plain C on both sides. */
#ifndef Y5_EMULATOR_H
#define Y5_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The order in which threads of a block, and blocks of a grid, take turns. */
typedef enum { Y5_ASCENDING, Y5_DESCENDING, Y5_SHUFFLED } y5_emulated_order;

typedef struct {
    int32_t driver_version; /* 0: none */
    int32_t devices;
    int32_t current_device;
    int32_t multiprocessors;
    int32_t compute_capability; /* 90 */
    y5_emulated_order threads;
    y5_emulated_order blocks;
    uint32_t seed;                     /* of shuffled orders */
    const char *failing;               /* the driver's function that fails; "" for none */
    int32_t failure;                   /* its CUresult */
    int32_t spared;                    /* and how often it succeeds before */
    int32_t capturing;                 /* a graph is captured, in the mode that torch uses */
    int32_t blocks_per_multiprocessor; /* of any kernel */
    int32_t together;                  /* blocks in turns, in builds with Y5_EMU_SIDE_BY_SIDE */
    void *exchanged;                   /* memory through which the blocks of a launch tell each */
    size_t exchanged_bytes;            /* other something, there too; NULL: none */

    int64_t launches; /* counted, as those below */
    int64_t clears;
    int64_t blocks_run;
    int64_t loaded;      /* kernels, onto any device */
    int64_t late_loaded; /* kernels among them that were only loaded by their first launch */
    int64_t kernels_run; /* kernels that ran at least once */
    int64_t modules;     /* that are loaded */
    const void *last_stream;
    int32_t last_device; /* that was current at the last launch */

    /* Called where a launch begins and whenever all threads of a block wait or have ended, as if
     * others had written to memory meanwhile; NULL for nothing. */
    void (*meanwhile)(void *context);
    void *context;
} y5_emulated_machine;

y5_emulated_machine *y5_emulated(void);

#ifdef __cplusplus
}
#endif

#endif
