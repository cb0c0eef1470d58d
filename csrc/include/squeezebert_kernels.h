/* squeezebert_kernels: SqueezeBERT and BERT encoders, and the kernels they are made of, as a C library.
 *
 *   sbk_model* model;      sbk_model_load("model.sbk", NULL, &model);
 *   sbk_context* context;  sbk_context_create(NULL, &context);
 *   sbk_input input = {.size = sizeof input, .batch = 1, .length = 6, .token_ids = ids};
 *   sbk_output output = {.size = sizeof output, .logits = logits, .logits_size = 2};
 *   if (sbk_run(model, context, &input, &output) != SBK_OK) puts(sbk_last_error());
 *
 * Status and message. Functions that can fail return a status; on anything but SBK_OK nothing was changed or allocated,
 * and sbk_last_error() tells what was wrong, with the argument's name and value. No exception leaves the library, no
 * function exits or prints.
 *
 * Ownership. Handles are made by *_load and *_create and belong to the caller until *_free, which accepts NULL. Arrays
 * that are passed in are read or written during the call only, unless a function says so. Strings that are returned
 * belong to the library.
 *
 * Threads. A model is immutable: any number of threads may use it at once. A context (threads and scratch memory) is
 * used by one call at a time: one context for each thread that calls. A second call meanwhile gets SBK_BUSY.
 *
 * What must not change during a call: everything that is passed to it. Until it returns, no other thread may write to
 * structures, arrays, texts and files that it reads, nor touch arrays that it writes. Values are checked once and read
 * again later: an id or a length that another thread changes in between makes the call read and write out of bounds. A
 * caller who cannot rule that out passes copies.
 *
 * Processes. Threads of a context block all signals but those of faults. After fork() the child may use its parent's
 * models, and its contexts on the calling thread alone; a context that was in use at that moment stays SBK_BUSY there.
 * New contexts have threads again.
 *
 * Floating point. Results do not depend on the calling thread's rounding mode, flushing of denormals or traps. They are
 * as before when a call returns.
 *
 * Structures begin with their size, so that later versions can add members: set it to sizeof the structure, and every
 * member you do not use to 0.
 *
 * Numbers. Activations are float32, row-major, token after token. Environment: SBK_ISA=neon|neonfp16|... picks slower
 * kernels than the fastest that the CPU has. */
#ifndef SQUEEZEBERT_KERNELS_H
#define SQUEEZEBERT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SBK_API __attribute__((visibility("default")))
#else
#define SBK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --- status ----------------------------------------------------------------------------------------------------- */

typedef enum sbk_status {
  SBK_OK = 0,
  SBK_INVALID_ARGUMENT = 1, /* an argument is wrong, or arguments do not fit each other */
  SBK_OUT_OF_MEMORY = 2,    /* also: the workspace that was given is too small */
  SBK_IO_ERROR = 3,         /* a file cannot be read or written */
  SBK_BAD_FILE = 4,         /* a file is truncated, damaged, of another version, or not what its name says */
  SBK_UNSUPPORTED = 5,      /* this CPU, this build or this model cannot do it */
  SBK_BUSY = 6,             /* the context is in use by another thread */
  SBK_INTERNAL_ERROR = 7    /* a fault of this library: please report it */
} sbk_status;

/* "0.1.0". Never NULL. */
SBK_API const char* sbk_version(void);

/* "SBK_OK", ...; "unknown status" for numbers that are none. Never NULL. */
SBK_API const char* sbk_status_name(sbk_status status);

/* What was wrong in the last call of this thread that failed, "" before the first. Valid until this thread's next
 * failing call. */
SBK_API const char* sbk_last_error(void);

/* --- the CPU ---------------------------------------------------------------------------------------------------- */

/* Instruction set tiers of this build that this CPU can run, from index 0 (slowest) on: "scalar", "neon", "neonfp16",
 * "neondot", "neoni8mm"; "avx2", ... NULL behind the last. */
SBK_API const char* sbk_isa_name(int32_t index);

/* The tier in use: the fastest, or what SBK_ISA says. NULL if SBK_ISA names one that is not possible here;
 * sbk_last_error() then lists those that are. Read once, at the first use. */
SBK_API const char* sbk_active_isa(void);

/* CPUs that inference uses by default: those of the fast clusters, from cpuinfo_max_freq; all where they are alike.
 * Writes up to `capacity` of their numbers, if `cpus` is not NULL, and returns how many there are, at least 1. */
SBK_API int32_t sbk_big_cores(int32_t* cpus, int32_t capacity);

/* --- models ----------------------------------------------------------------------------------------------------- */

typedef struct sbk_model sbk_model;

/* What the multiplications of the encoder are done in. Sums are float32 (int8: int32; float16: float32 over sums of up
 * to 192 float16 products), everything else is float32. */
typedef enum sbk_dtype {
  SBK_DTYPE_DEFAULT = 0, /* as the file has it; float32 for a folder with safetensors */
  SBK_FLOAT32 = 1,
  SBK_BFLOAT16 = 2,
  SBK_INT8 = 3, /* weights: a scale per output channel; inputs: a scale and a zero per token and group */
  SBK_FLOAT16 = 4
} sbk_dtype;

/* What a model has on top of its encoder. */
typedef enum sbk_head {
  SBK_HEAD_DEFAULT = 0, /* from "architectures" in config.json */
  SBK_HEAD_NONE = 1,
  SBK_HEAD_MASKED_LM = 2,
  SBK_HEAD_SEQUENCE_CLASSIFICATION = 3,
  SBK_HEAD_MULTIPLE_CHOICE = 4,
  SBK_HEAD_TOKEN_CLASSIFICATION = 5,
  SBK_HEAD_QUESTION_ANSWERING = 6
} sbk_head;

typedef struct sbk_load_options {
  size_t size;
  /* A .sbk file has one dtype; asking for another is SBK_UNSUPPORTED. */
  sbk_dtype dtype;
  sbk_head head;
  /* The tier whose layout weights get, NULL for the active one. A tier that this CPU lacks is for sbk_model_save. */
  const char* isa;
  /* Above 0: the checksums of all weights too are compared, and nothing may be hidden between sections or behind them,
   * which reads the whole file. Below 0: the same for files of less than 200 MB. 0: not for weights. */
  int32_t verify;
} sbk_load_options;

/* Loads `path`: a .sbk file (`squeezebert-kernels export` or sbk_model_save), or a folder with config.json and
 * model.safetensors in Hugging Face's format (SqueezeBERT or BERT, float32, float16 or bfloat16).
 *
 * A .sbk file is mapped, and its weights are used in place where their layout is that of the tier; what has another
 * layout is packed anew in memory (sbk_model_info.repacked_bytes). The file must not be changed while it is mapped.
 * A folder is packed into memory. `options` may be NULL.
 * Errors: SBK_IO_ERROR, SBK_BAD_FILE, SBK_UNSUPPORTED (dtype, head, architecture), SBK_INVALID_ARGUMENT,
 * SBK_OUT_OF_MEMORY. */
SBK_API sbk_status sbk_model_load(const char* path, const sbk_load_options* options, sbk_model** model);

/* Not while another thread uses it. */
SBK_API void sbk_model_free(sbk_model* model);

/* Writes a .sbk file: self-describing, versioned, checksummed; weights packed as they are in memory, at 64-byte
 * boundaries.
 *
 * Written beside `path` first, under a name that nobody can foresee, brought to the disk and then renamed: no reader
 * sees half a file, and writers do not meet. A link is followed: the file that it leads to is replaced. An existing
 * file keeps its mode. What is there but is no regular file, or may not be written to, is SBK_IO_ERROR. */
SBK_API sbk_status sbk_model_save(const sbk_model* model, const char* path);

/* How one vector is made of the hidden states of a text. */
typedef enum sbk_pooling {
  SBK_POOLING_MEAN = 0, /* of all tokens */
  SBK_POOLING_CLS = 1   /* the first token's */
} sbk_pooling;

typedef struct sbk_model_info {
  size_t size; /* set before the call */
  sbk_dtype dtype;
  sbk_head head;
  const char* isa;          /* tier whose layout the weights have; valid as long as the model */
  const char* architecture; /* "squeezebert" or "bert" */
  int32_t vocab_size, hidden_size, num_layers, num_heads, intermediate_size;
  int32_t max_length;      /* positions that have an embedding */
  int32_t num_labels;      /* values of logits per row or per token; vocab_size for masked language models; 0 without */
  int32_t has_pooler;      /* 1 if `pooled` can be computed */
  int32_t has_tokenizer;   /* 1 if sbk_tokenize works */
  int64_t mapped_bytes;    /* of the file, used in place */
  int64_t allocated_bytes; /* of weights in memory */
  int64_t repacked_bytes;  /* part of allocated_bytes: the file had them for another tier */
  /* How the model's authors make an embedding of hidden_states, which is left to the caller. */
  sbk_pooling embedding_pooling;
  int32_t embedding_normalize;       /* 1 if it is divided by its Euclidean norm */
  int32_t embedding_max_length;      /* tokens that a text is cut to, at most max_length */
  const char* embedding_unsupported; /* why these three do not say it, NULL if they do; valid as long as the model */
} sbk_model_info;

SBK_API sbk_status sbk_model_get_info(const sbk_model* model, sbk_model_info* info);

/* The name of a label, from id2label; NULL if `label` is out of range. Valid as long as the model. */
SBK_API const char* sbk_model_label(const sbk_model* model, int32_t label);

/* --- contexts: threads and scratch memory ----------------------------------------------------------------------- */

typedef struct sbk_context sbk_context;

/* Calls task(arg, begin, end) for disjoint ranges that cover [0, n), on up to `threads` threads at once, and returns
 * when all have returned. Results do not depend on the ranges. */
typedef void (*sbk_task)(void* arg, int64_t begin, int64_t end);
typedef void (*sbk_parallel_for)(void* pool, int64_t n, sbk_task task, void* arg);

typedef struct sbk_context_options {
  size_t size;
  /* Threads, the calling one included; 0: one for each of sbk_big_cores(). */
  int32_t threads;
  /* Not 0: threads stay on sbk_big_cores() (the calling thread is left alone). */
  int32_t pin;
  /* The caller's own pool, `threads` threads wide, instead of the context's; called from within sbk_run only. */
  sbk_parallel_for parallel_for;
  void* pool;
  /* The caller's own scratch memory, of sbk_workspace_bytes(), instead of memory that grows with the largest call. It
   * belongs to the context until sbk_context_free. Any alignment. */
  void* workspace;
  size_t workspace_bytes;
} sbk_context_options;

/* `options` may be NULL. With fewer threads than asked for, if the system gives no more: sbk_context_threads(). */
SBK_API sbk_status sbk_context_create(const sbk_context_options* options, sbk_context** context);
SBK_API void sbk_context_free(sbk_context* context);

/* Threads in use; 0 for NULL. */
SBK_API int32_t sbk_context_threads(const sbk_context* context);

/* --- running a model -------------------------------------------------------------------------------------------- */

/* A batch of token sequences: [batch][length] in row-major order. */
typedef struct sbk_input {
  size_t size;
  int32_t batch, length; /* both >= 1; length <= max_length of the model */
  const int32_t* token_ids;
  const int32_t* token_type_ids; /* NULL: 0 everywhere */
  /* Which tokens are real; at most one of the two; neither: all. Tokens that are not real cost nothing where they are
   * at the end of a sequence, and their results are 0. */
  const int32_t* lengths;        /* [batch], 1 .. length: the first so many */
  const int32_t* attention_mask; /* [batch][length] of 0 and 1, a 1 in every row */
  /* Logits of these tokens only (index: row * length + position), for heads with logits per token; NULL: all. */
  const int32_t* logit_tokens;
  int32_t num_logit_tokens;
} sbk_input;

/* What to compute, as arrays of the caller; NULL: not. The sizes, in floats, must be at least those given here. */
typedef struct sbk_output {
  size_t size;
  float* hidden_states; /* [batch][length][hidden_size], of the last layer */
  size_t hidden_states_size;
  float* pooled; /* [batch][hidden_size]: tanh(pooler(first token)) */
  size_t pooled_size;
  /* Sequence classification [batch][num_labels]; multiple choice [batch]: one for each (question, choice) row.
   * Token classification [batch * length or num_logit_tokens][num_labels]; masked language model the same with
   * vocab_size; question answering with 2: start and end. */
  float* logits;
  size_t logits_size;
} sbk_output;

/* Runs the model. The same input gives the same bits, for any number of threads.
 * Errors: SBK_INVALID_ARGUMENT (an id out of range, an output too small, ...), SBK_UNSUPPORTED (an output that the
 * model does not have, or weights of a tier that this CPU lacks), SBK_OUT_OF_MEMORY, SBK_BUSY. */
SBK_API sbk_status sbk_run(const sbk_model* model, sbk_context* context, const sbk_input* input,
                           const sbk_output* output);

/* Bytes of scratch memory that sbk_run takes at most for `batch` sequences of `length` tokens on `threads` threads,
 * with every output that the model has. */
SBK_API sbk_status sbk_workspace_bytes(const sbk_model* model, int32_t batch, int32_t length, int32_t threads,
                                       size_t* bytes);

/* --- text ------------------------------------------------------------------------------------------------------- */

/* The most bytes of a text, and of a pair. */
#define SBK_MAX_TEXT_BYTES 268435456

typedef struct sbk_text {
  size_t size;
  const char* text; /* UTF-8; bytes that are not become U+FFFD */
  int64_t text_bytes;
  const char* pair; /* NULL: one text only */
  int64_t pair_bytes;
  int32_t max_length; /* tokens to truncate to, the longer text first; 0: max_length of the model */
  /* Not 0: text that is too long is SBK_INVALID_ARGUMENT instead. */
  int32_t no_truncation;
} sbk_text;

/* The tokens of a text; arrays of `capacity` elements each, those not NULL are written. */
typedef struct sbk_tokens {
  size_t size;
  int32_t capacity;
  int32_t* token_ids;
  int32_t* token_type_ids;
  /* Where a token comes from: bytes [begin, end) of the text or, where its type id is 1, of the pair; 0, 0 for special
   * tokens. */
  int64_t* begin;
  int64_t* end;
} sbk_tokens;

/* Text to tokens, exactly as the Hugging Face tokenizer that the model was exported with: [CLS] text [SEP] or [CLS]
 * text [SEP] pair [SEP]. `count` gets their number. Errors: SBK_UNSUPPORTED (the model has no tokenizer: it was loaded
 * from safetensors), SBK_INVALID_ARGUMENT (capacity < number of tokens, which `count` then tells). */
SBK_API sbk_status sbk_tokenize(const sbk_model* model, const sbk_text* text, const sbk_tokens* tokens, int32_t* count);

/* The id of a token as it is written in the vocabulary ("[MASK]", "##ing"), -1 if there is none. */
SBK_API int32_t sbk_token_id(const sbk_model* model, const char* token);

/* Tokens to text, without special tokens and without ids that are no token. Writes at most `capacity` bytes, a final 0
 * included, and sets `bytes` to the length of the whole text without it. */
SBK_API sbk_status sbk_decode(const sbk_model* model, const int32_t* token_ids, int32_t count, char* text,
                              size_t capacity, size_t* bytes);

/* --- single ops ------------------------------------------------------------------------------------------------- */

typedef struct sbk_weight sbk_weight;

/* Packs `weight` [out_channels][in_channels / groups] (float32, row-major; not needed afterwards) for a grouped
 * pointwise convolution on the active tier. num_heads: 0, or that of the attention block it is for. groups divides both
 * channel counts; num_heads divides out_channels. */
SBK_API sbk_status sbk_weight_create(const float* weight, int32_t out_channels, int32_t in_channels, int32_t groups,
                                     int32_t num_heads, sbk_dtype dtype, sbk_weight** packed);
SBK_API void sbk_weight_free(sbk_weight* packed);

typedef enum sbk_activation {
  SBK_ACTIVATION_NONE = 0,
  SBK_ACTIVATION_GELU = 1,      /* x Phi(x), by erf */
  SBK_ACTIVATION_GELU_TANH = 2, /* its tanh approximation */
  SBK_ACTIVATION_RELU = 3
} sbk_activation;

typedef struct sbk_conv {
  const sbk_weight* weight;
  const float* bias; /* [out_channels] or NULL */
} sbk_conv;

typedef struct sbk_norm {
  const float* weight; /* [channels] */
  const float* bias;   /* [channels] */
  float eps;
} sbk_norm;

/* y = activation(conv(x)): x [tokens][in_channels], y [tokens][out_channels], no overlap. tokens >= 0. */
SBK_API sbk_status sbk_grouped_pointwise_conv(sbk_context* context, const sbk_conv* conv, sbk_activation activation,
                                              const float* x, int64_t tokens, float* y);

/* y = layer_norm(conv(x) + residual); residual and y [tokens][out_channels], y may be the residual. */
SBK_API sbk_status sbk_grouped_pointwise_conv_layer_norm(sbk_context* context, const sbk_conv* conv,
                                                         const sbk_norm* norm, const float* x, const float* residual,
                                                         int64_t tokens, float* y);

typedef struct sbk_attention {
  size_t size;
  sbk_conv query, key, value; /* weights made with num_heads; equal out_channels and dtype */
  int32_t num_heads;
  int32_t batch, length;
  const float* mask; /* added to the scores of every head and query: [batch][length], or NULL */
} sbk_attention;

/* context_layer = softmax(q k^T / sqrt(head size) + mask) v for every head of every sequence: x [batch][length]
 * [in_channels], context_layer [batch][length][out_channels], no overlap. */
SBK_API sbk_status sbk_attention_block(sbk_context* context, const sbk_attention* attention, const float* x,
                                       float* context_layer);

typedef struct sbk_post_attention {
  size_t size;
  sbk_conv post, intermediate, output;
  sbk_norm post_norm, output_norm;
  sbk_activation activation; /* behind intermediate */
} sbk_post_attention;

/* h = layer_norm(post(context_layer) + residual);  y = layer_norm(output(activation(intermediate(h))) + h).
 * context_layer [tokens][in_channels of post], residual and y [tokens][out_channels]; y may be either of them. */
SBK_API sbk_status sbk_post_attention_block(sbk_context* context, const sbk_post_attention* block,
                                            const float* context_layer, const float* residual, int64_t tokens,
                                            float* y);

#ifdef __cplusplus
}
#endif
#endif
