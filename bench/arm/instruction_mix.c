// Executed aarch64 instructions by class: a plugin for qemu-aarch64 (TCG plugin interface, version 1: QEMU 4.2 to 9).
//
//   cc -O2 -shared -fPIC -fvisibility=hidden -o instruction_mix.so instruction_mix.c
//   qemu-aarch64 -plugin ./instruction_mix.so,out=mix.json,hottest=5 ./program arguments...
//
// out=FILE writes a JSON object into FILE (default: into QEMU's log, see -d plugin -D FILE); hottest=N adds the N
// blocks that most instructions were executed in, disassembled.
//
// QEMU translates a program block by block. A block is classified when it is translated and counted whenever it is
// entered, so a program runs nearly at the speed of plain emulation. Counts are exact for one thread, because QEMU adds
// to the counters without locks. Of a block that a signal interrupts, all instructions are counted.
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- what is used of QEMU's qemu-plugin.h, which not every distribution ships ---

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
  const char* target_name;
  int oldest_version, newest_version;
  bool system_emulation;  // fields for system emulation follow
} qemu_info_t;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb* tb, enum qemu_plugin_op op, void* counter,
                                              uint64_t value);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*callback)(qemu_plugin_id_t, void*), void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb* tb);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* tb, size_t index);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn* insn);
char* qemu_plugin_insn_disas(const struct qemu_plugin_insn* insn);
const char* qemu_plugin_insn_symbol(const struct qemu_plugin_insn* insn);

EXPORT int qemu_plugin_version = 1;

// --- classes ---

#define CLASSES(X)                                                            \
  X(fma_fp32)     /* vector multiply-add, single precision: 4 values       */ \
  X(fma_fp64)     /* double precision: 2                                   */ \
  X(fma_fp16)     /* half precision: 8                                     */ \
  X(fma_widening) /* products of fp16 or bf16 added to fp32: 4             */ \
  X(mla_int)      /* integer multiply-add, widening ones included          */ \
  X(dot_int8)     /* sums of 4 products of int8: 16                        */ \
  X(dot_bf16)     /* sums of 2 products of bf16: 8                         */ \
  X(mmla_int8)    /* 2x8 times 8x2 of int8: 32                             */ \
  X(mmla_bf16)    /* 2x4 times 4x2 of bf16: 16                             */ \
  X(vector_load)  /* into SIMD and floating-point registers, of any width  */ \
  X(vector_store)                                                             \
  X(vector_other) /* everything else in SIMD and floating-point registers  */ \
  X(load)                                                                     \
  X(store)                                                                    \
  X(prefetch)                                                                 \
  X(branch)                                                                   \
  X(sve) /* SVE and SME of any kind                               */          \
  X(other)

#define AS_ENUM(name) name,
#define AS_NAME(name) #name,
enum instruction_class { CLASSES(AS_ENUM) class_count };
static const char* const class_names[] = {CLASSES(AS_NAME)};

// An instruction belongs to the first pattern that it fits: (instruction & mask) == value. Encodings are named as in
// the Arm Architecture Reference Manual for A-profile, chapter C4. Free bits: Q (30), registers, and those in the
// comment.
struct pattern {
  uint32_t mask, value;
  enum instruction_class kind;
};

static const struct pattern patterns[] = {
    // Advanced SIMD three same: FMLA, FMLS; a (23) chooses between them, sz (22) is the precision
    {0xbf60fc00, 0x0e20cc00, fma_fp32},
    {0xbf60fc00, 0x0e60cc00, fma_fp64},
    // Advanced SIMD three same (FP16): FMLA, FMLS; a (23)
    {0xbf60fc00, 0x0e400c00, fma_fp16},
    // Advanced SIMD vector x indexed element: FMLA, FMLS by element; o2 (14), L, M (21, 20), H (11); size (23, 22)
    {0xbfc0b400, 0x0f801000, fma_fp32},
    {0xbfc0b400, 0x0fc01000, fma_fp64},
    {0xbfc0b400, 0x0f001000, fma_fp16},
    // FMLAL, FMLSL; FMLAL2, FMLSL2: three same, S (23); then by element, S (14)
    {0xbf60fc00, 0x0e20ec00, fma_widening},
    {0xbf60fc00, 0x2e20cc00, fma_widening},
    {0xbfc0b400, 0x0f800000, fma_widening},
    {0xbfc0b400, 0x2f808000, fma_widening},
    // Advanced SIMD three-register extension: BFMLALB, BFMLALT (Q chooses); by element
    {0xbfe0fc00, 0x2ec0fc00, fma_widening},
    {0xbfc0f400, 0x0fc0f000, fma_widening},
    // Three-register extension: SDOT, UDOT, U (29); USDOT. By element: SDOT, UDOT; USDOT; SUDOT
    {0x9fe0fc00, 0x0e809400, dot_int8},
    {0xbfe0fc00, 0x0e809c00, dot_int8},
    {0x9fc0f400, 0x0f80e000, dot_int8},
    {0xbfc0f400, 0x0f80f000, dot_int8},
    {0xbfc0f400, 0x0f00f000, dot_int8},
    // BFDOT: three-register extension, by element
    {0xbfe0fc00, 0x2e40fc00, dot_bf16},
    {0xbfc0f400, 0x0f40f000, dot_bf16},
    // SMMLA, UMMLA, U (29); USMMLA; BFMMLA: three-register extension
    {0xdfe0fc00, 0x4e80a400, mmla_int8},
    {0xffe0fc00, 0x4e80ac00, mmla_int8},
    {0xffe0fc00, 0x6e40ec00, mmla_bf16},
    // MLA, MLS: three same, U (29) chooses, size (23, 22); by element, o2 (14)
    {0x9f20fc00, 0x0e209400, mla_int},
    {0xbf00b400, 0x2f000000, mla_int},
    // Three different: SMLAL, UMLAL, SMLSL, UMLSL and their second halves; by element, o2 (14)
    {0x9f20dc00, 0x0e208000, mla_int},
    {0x9f00b400, 0x0f002000, mla_int},
    // All else of "Data processing, scalar floating-point and Advanced SIMD": op0 (28 to 25) = x111
    {0x0e000000, 0x0e000000, vector_other},

    // Advanced SIMD load/store multiple and single structures, with or without post-index: L (22)
    {0xbe400000, 0x0c400000, vector_load},
    {0xbe400000, 0x0c000000, vector_store},
    // Load/store register pair, all forms: V (26), L (22)
    {0x3e400000, 0x2c400000, vector_load},
    {0x3e400000, 0x2c000000, vector_store},
    {0x3e400000, 0x28400000, load},
    {0x3e400000, 0x28000000, store},
    // PRFM (literal), PRFM (unsigned immediate), PRFUM, PRFM (register)
    {0xff000000, 0xd8000000, prefetch},
    {0xffc00000, 0xf9800000, prefetch},
    {0xffe00c00, 0xf8800000, prefetch},
    {0xffe00c00, 0xf8a00800, prefetch},
    // Load register (literal): V (26)
    {0x3f000000, 0x1c000000, vector_load},
    {0x3f000000, 0x18000000, load},
    // Atomic memory operations (LDADD, SWP, ...), which load and store, and LDRAA, LDRAB: bit 21, bits 11 and 10 not 10
    {0x3f200c00, 0x38200000, load},
    {0x3f200400, 0x38200400, load},
    // Load/store register, all other forms: V (26), opc (23, 22); opc = 0x of V = 1 has 128-bit forms at 1x
    {0x3e400000, 0x3c400000, vector_load},
    {0x3e400000, 0x3c000000, vector_store},
    {0x3ec00000, 0x38000000, store},
    {0x3e000000, 0x38000000, load},
    // Load/store exclusive, ordered, compare and swap: L (22); LDAPUR and STLUR: opc (23, 22)
    {0x3f400000, 0x08400000, load},
    {0x3f400000, 0x08000000, store},
    {0x3fe00c00, 0x19000000, store},
    {0x0a000000, 0x08000000, load},

    // B, BL; CBZ, CBNZ, TBZ, TBNZ; B.cond; BR, BLR, RET
    {0x7c000000, 0x14000000, branch},
    {0x7c000000, 0x34000000, branch},
    {0xfe000000, 0x54000000, branch},
    {0xfe000000, 0xd6000000, branch},
    // SVE: op0 (28 to 25) = 0010; SME: op0 = 0000 and bit 31
    {0x1e000000, 0x04000000, sve},
    {0x9e000000, 0x80000000, sve},
};

static enum instruction_class classify(uint32_t instruction) {
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
    if ((instruction & patterns[i].mask) == patterns[i].value) return patterns[i].kind;
  }
  return other;
}

// --- blocks ---

struct block {
  struct block* next;
  uint64_t address, executions;
  uint32_t length, by_class[class_count];
  const char* symbol;
  char** disassembly;  // `length` lines; null unless hottest blocks are wanted
};

static struct block* blocks;
static size_t block_count;
static size_t hottest;
static const char* out_path;

static void* allocate(size_t count, size_t size) {
  void* p = calloc(count, size);
  if (p == NULL) abort();
  return p;
}

// QEMU translates under a lock: this is never called twice at once.
static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  struct block* b = allocate(1, sizeof *b);
  b->address = qemu_plugin_tb_vaddr(tb);
  b->length = (uint32_t)qemu_plugin_tb_n_insns(tb);
  if (hottest > 0) b->disassembly = allocate(b->length, sizeof *b->disassembly);
  for (uint32_t i = 0; i < b->length; i++) {
    struct qemu_plugin_insn* insn = qemu_plugin_tb_get_insn(tb, i);
    uint32_t instruction;
    memcpy(&instruction, qemu_plugin_insn_data(insn), sizeof instruction);
    b->by_class[classify(instruction)]++;
    if (hottest > 0) b->disassembly[i] = qemu_plugin_insn_disas(insn);
    if (hottest > 0 && i == 0) b->symbol = qemu_plugin_insn_symbol(insn);
  }
  b->next = blocks;
  blocks = b;
  block_count++;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &b->executions, 1);
}

// --- report ---

static uint64_t executed(const struct block* b) { return b->executions * b->length; }

static int most_executed_first(const void* left, const void* right) {
  const uint64_t a = executed(*(struct block* const*)left), b = executed(*(struct block* const*)right);
  return (a < b) - (a > b);
}

static void print_string(FILE* out, const char* text) {
  putc('"', out);
  for (; text != NULL && *text != '\0'; text++) putc(*text == '"' || *text == '\\' || *text == '\t' ? ' ' : *text, out);
  putc('"', out);
}

static void print_block(FILE* out, const struct block* b) {
  fprintf(out, "{\"address\": \"0x%" PRIx64 "\", \"executions\": %" PRIu64 ", \"symbol\": ", b->address, b->executions);
  print_string(out, b->symbol);
  fputs(", \"instructions\": [", out);
  for (uint32_t i = 0; i < b->length; i++) {
    fputs(i > 0 ? ", " : "", out);
    print_string(out, b->disassembly[i]);
  }
  fputs("]}", out);
}

static void report(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  uint64_t total = 0, by_class[class_count] = {0};
  struct block** sorted = allocate(block_count + 1, sizeof(struct block*));
  size_t n = 0;
  for (struct block* b = blocks; b != NULL; b = b->next) {
    sorted[n++] = b;
    total += executed(b);
    for (int c = 0; c < class_count; c++) by_class[c] += b->executions * b->by_class[c];
  }
  FILE* out = out_path != NULL ? fopen(out_path, "w") : stderr;
  if (out == NULL) return perror(out_path);
  fprintf(out, "{\"total\": %" PRIu64 ", \"classes\": {", total);
  for (int c = 0; c < class_count; c++) {
    fprintf(out, "%s\"%s\": %" PRIu64, c > 0 ? ", " : "", class_names[c], by_class[c]);
  }
  fputs("}, \"hottest\": [", out);
  if (hottest > 0) qsort(sorted, n, sizeof *sorted, most_executed_first);
  for (size_t i = 0; i < hottest && i < n; i++) {
    fputs(i > 0 ? ", " : "", out);
    print_block(out, sorted[i]);
  }
  fputs("]}\n", out);
  fclose(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  if (strcmp(info->target_name, "aarch64") != 0) {
    fprintf(stderr, "instruction_mix: for aarch64 only, not %s\n", info->target_name);
    return -1;
  }
  for (int i = 0; i < argc; i++) {
    if (strncmp(argv[i], "out=", 4) == 0) {
      out_path = strdup(argv[i] + 4);
    } else if (strncmp(argv[i], "hottest=", 8) == 0) {
      hottest = strtoul(argv[i] + 8, NULL, 10);
    } else {
      fprintf(stderr, "instruction_mix: unknown argument '%s'; possible: out=FILE, hottest=N\n", argv[i]);
      return -1;
    }
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, report, NULL);
  return 0;
}
