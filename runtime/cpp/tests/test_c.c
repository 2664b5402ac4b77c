/* The C interface, from C99: the same numbers, a status and a text for whatever is wrong. */
#include <edgeae/edgeae.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;
static char error[512];

static void expect(int condition, const char* what, int line) {
  if (!condition) {
    ++failures;
    printf("test_c.c:%d: %s (last error: %s)\n", line, what, error);
  }
}
#define CHECK(condition) expect((condition), #condition, __LINE__)
#define ERROR error, sizeof error

static void test_table(const char* path) {
  edgeae_model* model = NULL;
  edgeae_scorer* scorer = NULL;
  edgeae_options options = EDGEAE_OPTIONS;
  edgeae_info info = {0};
  float x[20], z[6], x_hat[20], from_z[20], parts[20], scores[2], score = 0;
  char name[16];
  size_t i;
  for (i = 0; i < 20; ++i) x[i] = 0.25f * (float)i;
  options.device = "cpu";
  CHECK(edgeae_load(path, &options, &model, ERROR) == EDGEAE_OK);
  info.struct_size = sizeof info;
  CHECK(edgeae_get_info(model, &info, ERROR) == EDGEAE_OK);
  CHECK(info.row_values == 10 && info.latent_dim == 3 && info.rank == 1 && info.input_shape[0] == 10);
  CHECK(!info.uint8_input && info.threshold > 0 && !edgeae_is_anomaly(model, info.threshold));
  CHECK(edgeae_is_anomaly(model, info.threshold * 1.001f));
  CHECK(!strcmp(info.variant, "dense") && !strcmp(info.device, "cpu") && !strcmp(info.score, "zscore"));
  CHECK(!strcmp(edgeae_feature_name(model, 9), "sensor_9") && edgeae_feature_name(model, 10) == NULL);
  CHECK(edgeae_prepare(model, ERROR) == EDGEAE_OK);
  CHECK(edgeae_encode(model, x, 2, z, ERROR) == EDGEAE_OK);
  CHECK(edgeae_decode(model, z, 2, from_z, ERROR) == EDGEAE_OK);
  CHECK(edgeae_reconstruct(model, x, 2, x_hat, ERROR) == EDGEAE_OK);
  CHECK(!memcmp(x_hat, from_z, sizeof x_hat));
  CHECK(edgeae_score(model, x, 2, scores, ERROR) == EDGEAE_OK);
  CHECK(edgeae_score(model, NULL, 0, NULL, ERROR) == EDGEAE_OK);
  CHECK(edgeae_is_anomaly(model, scores[0]) == !(scores[0] <= info.threshold));
  CHECK(edgeae_is_anomaly(model, (float)NAN) == 1 && edgeae_is_anomaly(model, 0.0f) == 0);

  CHECK(edgeae_explain(model, x, 2, parts, ERROR) == EDGEAE_OK);
  for (i = 0; i < 10; ++i) score += parts[i] / 10;
  CHECK(fabsf(score - scores[0]) <= 1e-4f * scores[0]);
  CHECK(edgeae_value_name(model, 9, name, sizeof name, ERROR) == EDGEAE_OK && !strcmp(name, "sensor_9"));
  CHECK(edgeae_value_name(model, 9, name, 4, ERROR) == EDGEAE_OK && !strcmp(name, "sen"));
  CHECK(edgeae_value_name(model, 10, name, sizeof name, ERROR) == EDGEAE_INPUT_ERROR && strstr(error, "below 10, got 10"));

  CHECK(edgeae_bind(model, &scorer, ERROR) == EDGEAE_OK);
  edgeae_free(model); /* the scorer lives on */
  CHECK(edgeae_scorer_score(scorer, x + 10, &score, ERROR) == EDGEAE_OK);
  CHECK(fabsf(score - scores[1]) <= 1e-5f * scores[1]);
  x[3] = (float)NAN;
  CHECK(edgeae_scorer_score(scorer, x, &score, ERROR) == EDGEAE_INPUT_ERROR);
  CHECK(strstr(error, "x: row 0, feature 'sensor_3' is nan; remove or impute") == error);
  edgeae_scorer_free(scorer);
}

static void test_bytes(const char* path) {
  edgeae_model* model = NULL;
  edgeae_scorer* scorer = NULL;
  edgeae_info info = {0};
  unsigned char* bytes;
  float *floats, scores[2], again[2], score = 0;
  size_t i;
  CHECK(edgeae_load(path, NULL, &model, ERROR) == EDGEAE_OK);
  info.struct_size = sizeof info;
  CHECK(edgeae_get_info(model, &info, ERROR) == EDGEAE_OK && info.uint8_input);
  bytes = malloc(2 * info.row_values);
  floats = malloc(2 * info.row_values * sizeof *floats);
  for (i = 0; i < 2 * info.row_values; ++i) floats[i] = bytes[i] = (unsigned char)(i % 16);
  CHECK(edgeae_score_u8(model, bytes, 2, scores, ERROR) == EDGEAE_OK);
  CHECK(edgeae_score(model, floats, 2, again, ERROR) == EDGEAE_OK && !memcmp(scores, again, sizeof scores));
  CHECK(edgeae_explain_u8(model, bytes, 2, floats, ERROR) == EDGEAE_INPUT_ERROR && strstr(error, "one graph"));
  CHECK(edgeae_bind(model, &scorer, ERROR) == EDGEAE_OK);
  CHECK(edgeae_scorer_score_u8(scorer, bytes, &score, ERROR) == EDGEAE_OK && !memcmp(&score, scores, sizeof score));
  edgeae_scorer_free(scorer);
  edgeae_free(model);
  free(bytes);
  free(floats);
}

static void test_errors(const char* path) {
  edgeae_model* model = NULL;
  edgeae_options options = EDGEAE_OPTIONS;
  struct {
    edgeae_options known;
    size_t later;
  } newer = {EDGEAE_OPTIONS, 0};
  edgeae_info info = {0};
  float x[10] = {0}, score = 0;
  char tiny[8];

  CHECK(edgeae_load("nowhere", NULL, &model, ERROR) == EDGEAE_BUNDLE_ERROR && model == NULL);
  CHECK(strstr(error, "nowhere: no such bundle; make one with: edgeae export") == error);
  CHECK(edgeae_load("nowhere", NULL, &model, tiny, sizeof tiny) == EDGEAE_BUNDLE_ERROR && !strcmp(tiny, "nowhere"));
  CHECK(edgeae_load("nowhere", NULL, &model, NULL, 0) == EDGEAE_BUNDLE_ERROR);
  CHECK(edgeae_load(NULL, NULL, &model, ERROR) == EDGEAE_INPUT_ERROR);
  CHECK(edgeae_load(path, NULL, NULL, ERROR) == EDGEAE_INPUT_ERROR);
  CHECK(edgeae_load_bytes("noise", 5, NULL, &model, ERROR) == EDGEAE_BUNDLE_ERROR);
  options.device = "toaster";
  CHECK(edgeae_load(path, &options, &model, ERROR) == EDGEAE_INPUT_ERROR && strstr(error, "device: 'toaster'"));
  options.device = "cpu";
  options.on_invalid = 7;
  CHECK(edgeae_load(path, &options, &model, ERROR) == EDGEAE_INPUT_ERROR);

  /* Programs compiled with other versions of the header. */
  options.struct_size = 0;
  CHECK(edgeae_load(path, &options, &model, ERROR) == EDGEAE_INPUT_ERROR && strstr(error, "struct_size"));
  options.struct_size = offsetof(edgeae_options, on_invalid); /* an older one, which has no on_invalid */
  CHECK(edgeae_load(path, &options, &model, ERROR) == EDGEAE_OK);
  edgeae_free(model);
  newer.known.struct_size = sizeof newer;
  CHECK(edgeae_load(path, &newer.known, &model, ERROR) == EDGEAE_OK);
  CHECK(edgeae_get_info(model, &info, ERROR) == EDGEAE_INPUT_ERROR);
  info.struct_size = offsetof(edgeae_info, rank);
  CHECK(edgeae_get_info(model, &info, ERROR) == EDGEAE_OK && info.latent_dim == 3 && info.rank == 0);

  CHECK(edgeae_score(NULL, x, 1, &score, ERROR) == EDGEAE_INPUT_ERROR);
  CHECK(edgeae_score(model, NULL, 1, &score, ERROR) == EDGEAE_INPUT_ERROR);
  CHECK(edgeae_score(model, x, 1, NULL, ERROR) == EDGEAE_INPUT_ERROR);
  CHECK(edgeae_score(model, x, (size_t)-1, &score, ERROR) == EDGEAE_INPUT_ERROR && strstr(error, "more than memory"));
  edgeae_free(model);
  newer.later = 1;
  CHECK(edgeae_load(path, &newer.known, &model, ERROR) == EDGEAE_INPUT_ERROR && strstr(error, "newer edgeae"));
  edgeae_free(NULL);
  edgeae_scorer_free(NULL);
  CHECK(edgeae_is_anomaly(NULL, 0.0f) == 1 && strlen(edgeae_version()) >= 5);
}

int main(int argc, char** argv) {
  char path[4096];
  if (argc != 2) return 2;
  snprintf(path, sizeof path, "%s/table", argv[1]);
  test_table(path);
  test_errors(path);
  snprintf(path, sizeof path, "%s/dense-uint8-batch1/scorer.onnx", argv[1]);
  test_bytes(path);
  printf(failures == 0 ? "ok\n" : "%d failed\n", failures);
  return failures != 0;
}
