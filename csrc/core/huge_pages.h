/* Huge pages for large outputs. Knows no operation. */
#ifndef Y5_HUGE_PAGES_H
#define Y5_HUGE_PAGES_H

#include <stdint.h>

/* Asks for huge pages where `bytes` of memory about to be written cover some. A hint: what it costs
 * to ignore is time. */
void y5_advise_huge_pages(void *data, int64_t bytes);

#endif
