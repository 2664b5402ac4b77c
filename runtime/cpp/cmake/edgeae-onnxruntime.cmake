# Defines the target onnxruntime::onnxruntime: ONNX Runtime's own package where there is one, else the headers and the
# library below ONNXRUNTIME_ROOT (a CMake or environment variable, which is looked at first) or where systems keep them.
if(NOT TARGET onnxruntime::onnxruntime)
  if(NOT ONNXRUNTIME_ROOT AND DEFINED ENV{ONNXRUNTIME_ROOT})
    set(ONNXRUNTIME_ROOT "$ENV{ONNXRUNTIME_ROOT}")
  endif()
  if(ONNXRUNTIME_ROOT)
    find_package(onnxruntime CONFIG QUIET PATHS "${ONNXRUNTIME_ROOT}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
    set(edgeae_where PATHS "${ONNXRUNTIME_ROOT}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  else()
    find_package(onnxruntime CONFIG QUIET)
    set(edgeae_where)
  endif()
endif()

if(NOT TARGET onnxruntime::onnxruntime)
  find_path(EDGEAE_ONNXRUNTIME_INCLUDE onnxruntime_c_api.h ${edgeae_where}
    PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
  find_library(EDGEAE_ONNXRUNTIME_LIBRARY onnxruntime ${edgeae_where} PATH_SUFFIXES lib lib64)
  if(NOT EDGEAE_ONNXRUNTIME_INCLUDE OR NOT EDGEAE_ONNXRUNTIME_LIBRARY)
    message(FATAL_ERROR
      "ONNX Runtime was not found; download it from https://github.com/microsoft/onnxruntime/releases (or install "
      "libonnxruntime-dev), and set ONNXRUNTIME_ROOT to the folder that holds its include/ and lib/")
  endif()
  add_library(onnxruntime::onnxruntime UNKNOWN IMPORTED)
  set_target_properties(onnxruntime::onnxruntime PROPERTIES
    IMPORTED_LOCATION "${EDGEAE_ONNXRUNTIME_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${EDGEAE_ONNXRUNTIME_INCLUDE}")
endif()
