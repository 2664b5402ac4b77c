/* A stream of rows, each as raw float32 values on standard input, to an alarm for every anomaly:
 *
 *     sensor | ./stream BUNDLE
 *
 * BUNDLE is a bundle's directory or its scorer.onnx. The C interface from plain C99.
 */
#include <edgeae/edgeae.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: stream BUNDLE < rows.f32\n");
    return 2;
  }
  char error[512] = "";
  edgeae_options options = EDGEAE_OPTIONS;
  options.on_invalid = EDGEAE_FLAG; /* a row with NaN is an alarm, not the end */
  edgeae_model* model = NULL;
  edgeae_scorer* scorer = NULL;
  edgeae_info info = {0};
  info.struct_size = sizeof info;
  if (edgeae_load(argv[1], &options, &model, error, sizeof error) != EDGEAE_OK ||
      edgeae_get_info(model, &info, error, sizeof error) != EDGEAE_OK ||
      edgeae_bind(model, &scorer, error, sizeof error) != EDGEAE_OK) {
    fprintf(stderr, "stream: %s\n", error);
    edgeae_free(model);
    return 1;
  }

  unsigned long number = 0, alarms = 0;
  int status = 0;
  float* row = malloc(info.row_values * sizeof *row);
  while (row != NULL && fread(row, sizeof *row, info.row_values, stdin) == info.row_values) {
    float score = 0;
    if (edgeae_scorer_score(scorer, row, &score, error, sizeof error) != EDGEAE_OK) {
      fprintf(stderr, "stream: row %lu: %s\n", number, error);
      status = 1;
      break;
    }
    if (edgeae_is_anomaly(model, score)) {
      printf("row %lu: score %g exceeds %g\n", number, (double)score, (double)info.threshold);
      fflush(stdout);
      ++alarms;
    }
    ++number;
  }
  printf("%lu rows, %lu anomalies\n", number, alarms);
  free(row);
  edgeae_scorer_free(scorer);
  edgeae_free(model);
  return status;
}
