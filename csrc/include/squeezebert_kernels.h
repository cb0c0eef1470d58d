/* The C interface of squeezebert_kernels. */
#ifndef SQUEEZEBERT_KERNELS_H
#define SQUEEZEBERT_KERNELS_H

#define SBK_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0": the version of the library that is loaded. */
SBK_API const char* sbk_version(void);

#ifdef __cplusplus
}
#endif
#endif
