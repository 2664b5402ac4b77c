/* edgeae's plain C interface: autoencoders from bundles, on ONNX Runtime, for every language that can call C.
 *
 * Every function that can fail returns an edgeae_status and, where it is not EDGEAE_OK, writes what is wrong and what to
 * do to `error`, a buffer of `error_size` bytes that belongs to the caller (NULL and 0: no text wanted). A text that is
 * too long is cut; it always ends in '\0'. 512 bytes are plenty. No C++ exception ever leaves a function.
 *
 * Rows lie one after the other, [n, *input_shape], in the units of the training data. Results are float. Higher scores
 * are more anomalous. Any number of threads may call one model; a scorer belongs to one thread at a time.
 *
 * There is no check here that a graph is harmless: verify bundles from strangers with `edgeae verify` before.
 */
#ifndef EDGEAE_H
#define EDGEAE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(EDGEAE_BUILD_SHARED)
#define EDGEAE_API __declspec(dllexport)
#elif defined(_WIN32) && defined(EDGEAE_SHARED)
#define EDGEAE_API __declspec(dllimport)
#elif defined(__GNUC__)
#define EDGEAE_API __attribute__((visibility("default")))
#else
#define EDGEAE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* An int in every signature, so that the size is the same for every compiler. */
typedef int32_t edgeae_status;
enum {
  EDGEAE_OK = 0,
  EDGEAE_ERROR = 1,           /* any other, such as no memory left or a call in a forked child */
  EDGEAE_INPUT_ERROR = 2,     /* data or an argument is not what was asked for */
  EDGEAE_BUNDLE_ERROR = 3,    /* a bundle is missing, incomplete or of another format */
  EDGEAE_INTEGRITY_ERROR = 4, /* a bundle's bytes are not the ones its manifest promises */
  EDGEAE_DEVICE_ERROR = 5     /* the device is absent or did not take the model */
};

enum {
  EDGEAE_RAISE = 0, /* rows with NaN or infinity are EDGEAE_INPUT_ERROR */
  EDGEAE_FLAG = 1   /* they get NaN as their result, which is an anomaly */
};

typedef struct edgeae_model edgeae_model;
typedef struct edgeae_scorer edgeae_scorer;

/* Start from EDGEAE_OPTIONS, or from all zeros with struct_size = sizeof(edgeae_options): zero is the default of every
 * member, and members that a program was compiled without are taken as zero. */
typedef struct edgeae_options {
  size_t struct_size;
  const char* device;    /* "auto" (NULL), "cpu", "cuda", "cuda:1", "xnnpack", "coreml", ... never silently the CPU */
  const char* precision; /* "fp32" (NULL), "fp16", "int8" */
  int32_t on_invalid;    /* EDGEAE_RAISE or EDGEAE_FLAG */
  int32_t cpu_fallback;  /* not 0: the CPU may run what the device does not take */
  size_t workers;        /* threads that share a large input; 0: one */
  size_t chunk;          /* rows per call of ONNX Runtime; 0: chosen from the size of a row */
} edgeae_options;

#define EDGEAE_OPTIONS {sizeof(edgeae_options), NULL, NULL, EDGEAE_RAISE, 0, 0, 0}

/* What a model is. The caller sets struct_size; texts belong to the model. */
typedef struct edgeae_info {
  size_t struct_size;
  size_t row_values;          /* numbers in one row */
  size_t latent_dim;          /* numbers in one latent */
  size_t rank;                /* axes of one row, 1 to 3 */
  int64_t input_shape[3];
  float threshold;            /* a row is an anomaly when not (score <= threshold) */
  int32_t uint8_input;        /* not 0: rows are bytes; floats must be whole numbers from 0 to 255 */
  const char* variant;        /* "dense", ... */
  const char* precision;      /* "fp32", ... */
  const char* layout;         /* "vector", "HW", "CHW", "HWC", "TC" */
  const char* score;          /* "mse", ... */
  const char* device;         /* "cpu", "cuda:0", ... */
  const char* device_reason;  /* why "auto" chose it */
} edgeae_info;

/* The version of edgeae that this library was built from, such as "0.1.0". */
EDGEAE_API const char* edgeae_version(void);

/* Load a bundle's directory or one of its graphs. Free the model with edgeae_free. NULL options are the defaults. */
EDGEAE_API edgeae_status edgeae_load(const char* path, const edgeae_options* options, edgeae_model** model,
                                     char* error, size_t error_size);

/* Load one graph that is in memory; the bytes are not needed afterwards. */
EDGEAE_API edgeae_status edgeae_load_bytes(const void* data, size_t size, const edgeae_options* options,
                                           edgeae_model** model, char* error, size_t error_size);

/* Free a model; NULL is fine. Scorers keep what they need. */
EDGEAE_API void edgeae_free(edgeae_model* model);

EDGEAE_API edgeae_status edgeae_get_info(const edgeae_model* model, edgeae_info* info, char* error, size_t error_size);

/* The name of a feature, or NULL if the model has no names or fewer. */
EDGEAE_API const char* edgeae_feature_name(const edgeae_model* model, size_t index);

/* Load and test all graphs now rather than at their first use. */
EDGEAE_API edgeae_status edgeae_prepare(const edgeae_model* model, char* error, size_t error_size);

/* x: [rows, *input_shape]; z: [rows, latent_dim]; x_hat: [rows, *input_shape]; scores: [rows]. */
EDGEAE_API edgeae_status edgeae_encode(const edgeae_model* model, const float* x, size_t rows, float* z, char* error,
                                       size_t error_size);
EDGEAE_API edgeae_status edgeae_encode_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* z,
                                          char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_decode(const edgeae_model* model, const float* z, size_t rows, float* x_hat,
                                       char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_reconstruct(const edgeae_model* model, const float* x, size_t rows, float* x_hat,
                                            char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_reconstruct_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* x_hat,
                                               char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_score(const edgeae_model* model, const float* x, size_t rows, float* scores,
                                      char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_score_u8(const edgeae_model* model, const uint8_t* x, size_t rows, float* scores,
                                         char* error, size_t error_size);

/* Scores [rows] as 1 - conformal p-values: about the share of normal rows that score lower. Needs the bundle's directory,
 * with the scores of normal rows in it. */
EDGEAE_API edgeae_status edgeae_calibrate(const edgeae_model* model, const float* scores, size_t rows, float* calibrated,
                                          char* error, size_t error_size);

/* What each value of each row contributes to the row's score, [rows, *input_shape]; the mean over a row is its score, but
 * for "elbo". Needs the bundle's directory. */
EDGEAE_API edgeae_status edgeae_explain(const edgeae_model* model, const float* x, size_t rows, float* contributions,
                                        char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_explain_u8(const edgeae_model* model, const uint8_t* x, size_t rows,
                                           float* contributions, char* error, size_t error_size);

/* Write what a value of a row is called to `name`, cut to `name_size`: its feature, "pressure @ 12" of a channel at a
 * step, or its place, "7, 12". */
EDGEAE_API edgeae_status edgeae_value_name(const edgeae_model* model, size_t index, char* name, size_t name_size,
                                           char* error, size_t error_size);

/* 1 if a score is an anomaly's, not (score <= threshold), so that NaN is one; else 0. */
EDGEAE_API int32_t edgeae_is_anomaly(const edgeae_model* model, float score);

/* Score one row at a time at the lowest latency, without allocating. Free the scorer with edgeae_scorer_free. */
EDGEAE_API edgeae_status edgeae_bind(const edgeae_model* model, edgeae_scorer** scorer, char* error, size_t error_size);
EDGEAE_API edgeae_status edgeae_scorer_score(edgeae_scorer* scorer, const float* row, float* score, char* error,
                                             size_t error_size);
EDGEAE_API edgeae_status edgeae_scorer_score_u8(edgeae_scorer* scorer, const uint8_t* row, float* score, char* error,
                                                size_t error_size);
EDGEAE_API void edgeae_scorer_free(edgeae_scorer* scorer);

#ifdef __cplusplus
}
#endif

#endif
