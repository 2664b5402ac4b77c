// Selects an instruction set for everything that follows in a file: #define EDGEAE_TARGET "avx2,fma" before including.
// Up to the end of the file, since templates are instantiated there.
#define EDGEAE_TEXT(x) #x
#define EDGEAE_PRAGMA(x) _Pragma(EDGEAE_TEXT(x))
#if defined(__clang__)
EDGEAE_PRAGMA(clang attribute push(__attribute__((target(EDGEAE_TARGET))), apply_to = function))
#else
EDGEAE_PRAGMA(GCC target(EDGEAE_TARGET))
#endif
