/* Blocks of a kernel, run by fibers on the thread that launches. */
#ifndef Y5_BLOCKS_H
#define Y5_BLOCKS_H

#include "emulator.h"

#include <cuda_runtime.h>

#include <functional>

namespace y5_emulator {

/* Runs all blocks, in the machine's orders: one after the other, or where the build allows it so
 * many at a time as the machine says, in turns. Ends the process where threads of a block wait at
 * different barriers. */
void run_blocks(const char *name, dim3 grid, unsigned int threads,
                const std::function<void()> &thread, y5_emulated_machine *machine);

} // namespace y5_emulator

#endif
