/* The dynamic loader's functions, bound to the version that every glibc has. glibc 2.34 moved them
 * from libdl into libc and gave them a new one, without which nothing built there would load on an
 * older system; nothing else here needs more than glibc 2.17. */
#ifndef Y5_DL_H
#define Y5_DL_H

#include <dlfcn.h>

#if defined(__GLIBC__) && defined(__x86_64__)
#define Y5_DL_VERSION "GLIBC_2.2.5"
#elif defined(__GLIBC__) && defined(__aarch64__)
#define Y5_DL_VERSION "GLIBC_2.17"
#endif

#ifdef Y5_DL_VERSION
__asm__(".symver dlopen, dlopen@" Y5_DL_VERSION "\n"
        ".symver dlsym, dlsym@" Y5_DL_VERSION "\n"
        ".symver dlclose, dlclose@" Y5_DL_VERSION "\n"
        ".symver dlerror, dlerror@" Y5_DL_VERSION);
#endif

#endif
