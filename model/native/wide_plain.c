/* The inner loops for what every processor has: SSE2 on x86, NEON on ARM. */

#include "native.h"
#include "wide.h"
#include <math.h>

#define LANES 4
#define TABLE wide_plain
#define NAME "128 bits"
#include "wide.inc"
