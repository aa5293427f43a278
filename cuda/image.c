/* The kernels' machine code and PTX, as build.py made them, inside the library. */
__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        ".globl y5_cuda_image\n"
        ".hidden y5_cuda_image\n"
        "y5_cuda_image:\n"
        ".incbin \"kernels.fatbin\"\n"
        ".popsection");
