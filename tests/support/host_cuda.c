// A driver library (libcuda.so.1) whose device memory is host memory: the functions that cuda-bindings calls do what CUDA does,
// but immediately. Allocations are POSIX shared-memory objects, so that another process can open them by handle. There is only
// one kernel, so it needs no name. Enough for benchmarks/gpu/check.py; all other functions succeed and do nothing.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, NAME = 40, HANDLE = 64, DEVICE = 2, INVALID = 1, NOT_FOUND = 500 };
typedef struct { char bytes[HANDLE]; } Handle;
typedef struct {  // CUDA_MEMCPY2D
  size_t source_x, source_y; unsigned source_type; const void *source_host; uint64_t source; void *source_array;
  size_t source_pitch, target_x, target_y; unsigned target_type; void *target_host; uint64_t target; void *target_array;
  size_t target_pitch, width, rows;
} Copy;

static struct { uint64_t at; size_t size; char name[NAME]; } memories[MOST];
static int made;

static int nothing(void) { return 0; }

static int allocate(uint64_t *at, size_t size) {
  int n = 0;
  while (n < MOST && memories[n].at) n++;
  if (n == MOST) return 2;
  snprintf(memories[n].name, NAME, "/hostcuda-%d-%d", getpid(), made++);
  int file = shm_open(memories[n].name, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, size)) return 2;
  memories[n].size = size;
  *at = memories[n].at = (uint64_t)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return 0;
}

static int find(uint64_t at) {
  for (int n = 0; n < MOST; n++) if (memories[n].at == at) return n;
  return -1;
}

static int release(uint64_t at) {
  int n = find(at);
  if (n < 0) return INVALID;
  munmap((void *)at, memories[n].size);
  shm_unlink(memories[n].name);
  memories[n].at = 0;
  return 0;
}

static int get_handle(Handle *handle, uint64_t at) {
  int n = find(at);
  if (n < 0) return INVALID;
  memset(handle, 0, HANDLE);
  memcpy(handle->bytes, memories[n].name, NAME);
  memcpy(handle->bytes + NAME, &memories[n].size, sizeof(size_t));
  return 0;
}

static int open_handle(uint64_t *at, Handle handle, unsigned flags) {
  size_t size;
  memcpy(&size, handle.bytes + NAME, sizeof size);
  int file = shm_open(handle.bytes, O_RDWR, 0);
  if (file < 0) return INVALID;
  *at = (uint64_t)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  return 0;
}

static int upload(uint64_t to, const void *from, size_t size, void *stream) { memcpy((void *)to, from, size); return 0; }
static int download(void *to, uint64_t from, size_t size, void *stream) { memcpy(to, (void *)from, size); return 0; }

static int copy_rows(const Copy *copy, void *stream) {
  const char *from = copy->source_type == DEVICE ? (char *)copy->source : copy->source_host;
  char *to = copy->target_type == DEVICE ? (char *)copy->target : copy->target_host;
  if (copy->source_pitch < copy->width || copy->target_pitch < copy->width) return INVALID;
  for (size_t row = 0; row < copy->rows; row++)
    memcpy(to + row * copy->target_pitch, from + row * copy->source_pitch, copy->width);
  return 0;
}

static int launch(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                  unsigned shared, void *stream, void **arguments, void **extra) {
  const unsigned char *pairs = *(unsigned char **)arguments[0];
  uint64_t pitch = *(uint64_t *)arguments[1];
  unsigned char *u = *(unsigned char **)arguments[2], *v = *(unsigned char **)arguments[3];
  unsigned columns = *(unsigned *)arguments[4], rows = *(unsigned *)arguments[5];
  // What the grid does not reach stays as it was, as on a GPU.
  for (unsigned y = 0; y < rows && y < gy * by; y++)
    for (unsigned x = 0; x < columns && x < gx * bx; x++) {
      u[(size_t)y * columns + x] = pairs[y * pitch + 2 * x];
      v[(size_t)y * columns + x] = pairs[y * pitch + 2 * x + 1];
    }
  return 0;
}

static int load_module(void **module, const char *text) { *module = (void *)1; return strstr(text, ".version") ? 0 : 218; }
static int get_function(void **function, void *module, const char *name) {
  *function = (void *)1;
  return strcmp(name, "split_chroma") ? NOT_FOUND : 0;
}
static int get_context(void **context) { *context = (void *)1; return 0; }
static int retain_context(void **context, int device) { *context = (void *)1; return 0; }
static int make_object(void **object, unsigned flags) { *object = calloc(1, sizeof(struct timespec)); return 0; }
static int record(void *event, void *stream) { return clock_gettime(CLOCK_MONOTONIC, event); }
static int elapsed(float *ms, struct timespec *start, struct timespec *end) {
  *ms = (end->tv_sec - start->tv_sec) * 1e3f + (end->tv_nsec - start->tv_nsec) / 1e6f;
  return 0;
}
static int get_device(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
static int one(int *value) { *value = 1; return 0; }
static int version(int *value) { *value = 13000; return 0; }
static int name(char *text, int size, int device) { snprintf(text, size, "host memory"); return 0; }
static int describe(int code, const char **text) { *text = "an error of the stand-in"; return 0; }

static const struct { const char *name; void *function; } known[] = {
  {"cuMemAlloc", allocate}, {"cuMemFree", release}, {"cuIpcGetMemHandle", get_handle},
  {"cuIpcOpenMemHandle", open_handle}, {"cuMemcpyHtoDAsync", upload}, {"cuMemcpyDtoHAsync", download},
  {"cuMemcpy2DAsync", copy_rows}, {"cuLaunchKernel", launch}, {"cuModuleLoadData", load_module},
  {"cuModuleGetFunction", get_function}, {"cuCtxGetCurrent", get_context},
  {"cuDevicePrimaryCtxRetain", retain_context}, {"cuStreamCreate", make_object}, {"cuEventCreate", make_object},
  {"cuEventRecord", record}, {"cuEventElapsedTime", elapsed}, {"cuDeviceGet", get_device},
  {"cuDeviceGetCount", one}, {"cuDeviceGetAttribute", one}, {"cuDriverGetVersion", version},
  {"cuDeviceGetName", name}, {"cuGetErrorString", describe},
};

int cuGetProcAddress_v2(const char *wanted, void **function, int cuda, uint64_t flags, int *status) {
  *function = nothing;
  if (status) *status = 0;
  if (!strncmp(wanted, "cuGetProcAddress", 16)) *function = cuGetProcAddress_v2;
  for (size_t n = 0; n < sizeof known / sizeof *known; n++) {
    size_t length = strlen(known[n].name);
    // Also cuMemAlloc_v2, cuEventRecord_ptsz and the like
    if (!strncmp(wanted, known[n].name, length) && (!wanted[length] || wanted[length] == '_')) *function = known[n].function;
  }
  return 0;
}
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *value) { return version(value); }
int cuDeviceGetCount(int *value) { return one(value); }
