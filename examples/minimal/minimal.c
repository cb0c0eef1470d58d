/* The smallest program on the library. CMakeLists.txt beside it shows how to link it. */
#include <squeezebert_kernels.h>
#include <stdio.h>

int main(void) {
  printf("squeezebert_kernels %s\n", sbk_version());
  return 0;
}
