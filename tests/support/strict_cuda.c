// A driver library (libcuda.so.1) that simulates one GPU strictly, to test the calls through cuda-bindings: it rejects calls
// without a context and wrong flags, copies nothing before an event was queried twice, has no other functions than these, and
// fails on command (TRIDETR_FAKE_FAILS=cuFunction:code). `host_cuda.c` is the lenient variant.
//
// cc -shared -fPIC -o libcuda.so.1 strict_cuda.c
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { Copy copies[64]; int count; } Stream;
typedef struct { Stream *stream; int asked; } Event;

static int initialised, context;

static CUresult fails(const char *name) {
    const char *wanted = getenv("TRIDETR_FAKE_FAILS");
    size_t length = strlen(name);
    if (wanted && !strncmp(wanted, name, length) && wanted[length] == ':') return atoi(wanted + length + 1);
    return initialised ? 0 : 3;  // CUDA_ERROR_NOT_INITIALIZED
}
#define MAY CUresult code_ = fails(__func__); if (code_) return code_
#define NEEDS_CONTEXT MAY; if (context != 2) return 201  // CUDA_ERROR_INVALID_CONTEXT

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    *function = dlsym(RTLD_DEFAULT, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : 500;  // CUDA_ERROR_NOT_FOUND
}
CUresult cuInit(unsigned flags) { initialised = 1; MAY; return 0; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return 0; }
CUresult cuGetErrorString(CUresult code, const char **text) { *text = "the fake fails"; return 0; }
CUresult cuDeviceGetCount(int *count) { MAY; *count = 1; return 0; }
CUresult cuDeviceGet(int *device, int ordinal) { MAY; *device = ordinal; return ordinal ? 101 : 0; }
CUresult cuDeviceGetUuid(char *uuid, int device) { MAY; for (int i = 0; i < 16; i++) uuid[i] = i + 1; return 0; }
CUresult cuDeviceGetUuid_v2(char *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
CUresult cuDeviceGetName(char *name, int size, int device) { MAY; snprintf(name, size, "C GPU"); return 0; }
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    MAY;
    *value = attribute == 125 && !getenv("TRIDETR_FAKE_NO_IPC");  // IPC_EVENT_SUPPORTED
    return 0;
}
CUresult cuDevicePrimaryCtxRetain(void **made, int device) { MAY; *made = &context; context = 1; return 0; }
CUresult cuDevicePrimaryCtxRelease(int device) { MAY; context = 0; return 0; }
CUresult cuCtxSetCurrent(void *wanted) { MAY; if (wanted != &context) return 201; context = 2; return 0; }
CUresult cuMemAlloc(uint64_t *pointer, size_t size) {
    NEEDS_CONTEXT; *pointer = (uint64_t)(uintptr_t)malloc(size); return 0;
}
CUresult cuMemFree(uint64_t pointer) { NEEDS_CONTEXT; free((void *)(uintptr_t)pointer); return 0; }
CUresult cuIpcGetMemHandle(char *handle, uint64_t pointer) {
    NEEDS_CONTEXT; for (int i = 0; i < 64; i++) handle[i] = 200 - i; return 0;
}
CUresult cuMemHostRegister(void *start, size_t size, unsigned flags) {
    NEEDS_CONTEXT; return (uintptr_t)start % 4096 || !size ? 1 : 0;
}
CUresult cuMemHostUnregister(void *start) { NEEDS_CONTEXT; return (uintptr_t)start % 4096 ? 1 : 0; }
CUresult cuStreamCreate(void **stream, unsigned flags) {
    NEEDS_CONTEXT; *stream = calloc(1, sizeof(Stream)); return flags == 1 ? 0 : 1;
}
CUresult cuStreamDestroy(void *stream) { NEEDS_CONTEXT; free(stream); return 0; }
static CUresult queue(Stream *stream, void *to, const void *from, size_t size) {
    if (stream->count == 64) return 2;
    stream->copies[stream->count++] = (Copy){to, from, size};
    return 0;
}
CUresult cuMemcpyHtoDAsync(uint64_t to, const void *from, size_t size, void *stream) {
    NEEDS_CONTEXT; return queue(stream, (void *)(uintptr_t)to, from, size);
}
CUresult cuMemcpyDtoHAsync(void *to, uint64_t from, size_t size, void *stream) {
    NEEDS_CONTEXT; return queue(stream, to, (void *)(uintptr_t)from, size);
}
CUresult cuEventCreate(void **event, unsigned flags) {
    NEEDS_CONTEXT; *event = calloc(1, sizeof(Event)); return flags == 2 ? 0 : 1;
}
CUresult cuEventDestroy(void *event) { NEEDS_CONTEXT; free(event); return 0; }
CUresult cuEventRecord(void *event, void *stream) { NEEDS_CONTEXT; *(Event *)event = (Event){stream, 0}; return 0; }
CUresult cuEventQuery(void *event) {
    NEEDS_CONTEXT;
    Event *one = event;
    if (!one->asked++) return 600;  // CUDA_ERROR_NOT_READY
    Stream *stream = one->stream;
    for (int i = 0; i < stream->count; i++) memcpy(stream->copies[i].to, stream->copies[i].from, stream->copies[i].size);
    stream->count = 0;
    return 0;
}
// Newer names of the same.
#define ALIAS(old, new) __typeof__(old) new __attribute__((alias(#old)))
ALIAS(cuMemAlloc, cuMemAlloc_v2);
ALIAS(cuMemFree, cuMemFree_v2);
ALIAS(cuMemHostRegister, cuMemHostRegister_v2);
ALIAS(cuStreamDestroy, cuStreamDestroy_v2);
ALIAS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2);
ALIAS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2);
ALIAS(cuEventDestroy, cuEventDestroy_v2);
ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2);
