#include "include/squeezebert_kernels.h"

const char* sbk_version(void) { return SBK_VERSION; }
