# Defines the target edgeae::latents, for programs that include edgeae/latents.hpp, where zstd is there: its own package,
# or the header and the library below ZSTD_ROOT (a CMake or environment variable, which is looked at first) or where systems
# keep them.
if(NOT ZSTD_ROOT AND DEFINED ENV{ZSTD_ROOT})
  set(ZSTD_ROOT "$ENV{ZSTD_ROOT}")
endif()
set(edgeae_zstd)
if(NOT ZSTD_ROOT)
  find_package(zstd CONFIG QUIET)
  foreach(name zstd::libzstd zstd::libzstd_shared zstd::libzstd_static)
    if(TARGET ${name} AND NOT edgeae_zstd)
      set(edgeae_zstd ${name})
    endif()
  endforeach()
endif()

if(NOT edgeae_zstd)
  set(edgeae_where)
  if(ZSTD_ROOT)
    set(edgeae_where PATHS "${ZSTD_ROOT}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  endif()
  find_path(EDGEAE_ZSTD_INCLUDE zstd.h ${edgeae_where} PATH_SUFFIXES include)
  find_library(EDGEAE_ZSTD_LIBRARY NAMES zstd zstd_static ${edgeae_where}
    PATH_SUFFIXES lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
  if(EDGEAE_ZSTD_INCLUDE AND EDGEAE_ZSTD_LIBRARY)
    set(edgeae_zstd edgeae::zstd)
  endif()
endif()

if(edgeae_zstd AND NOT TARGET edgeae::latents)
  if(edgeae_zstd STREQUAL "edgeae::zstd")
    add_library(edgeae::zstd UNKNOWN IMPORTED GLOBAL)
    set_target_properties(edgeae::zstd PROPERTIES
      IMPORTED_LOCATION "${EDGEAE_ZSTD_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${EDGEAE_ZSTD_INCLUDE}")
  endif()
  add_library(edgeae::latents INTERFACE IMPORTED GLOBAL)
  set_target_properties(edgeae::latents PROPERTIES INTERFACE_LINK_LIBRARIES "edgeae::edgeae;${edgeae_zstd}")
endif()
set(edgeae_no_zstd
  "zstd was not found; install libzstd-dev, or set ZSTD_ROOT to the folder that holds its include/ and lib/")
