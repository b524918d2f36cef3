/* A CUDA runtime, cuBLAS and NCCL that need no GPU.

Memory of the "GPU" is the host's and starts at zero, copies are real, and kernels, matrix products and the exchange
between ranks do nothing. Between pretend_strict(1) and pretend_strict(0), a call that makes the host wait for the GPU
fails, and so does a copy between the GPU and pageable memory. The environment says the rest: PRETEND_GPUS is the number
of GPUs (1 without it), PRETEND_COLLECTIVES a path; each rank writes its collectives to PATH.RANK.

build.py adds a function that does nothing and returns success for every other function that torch asks for. */

#include <driver_types.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { OUT_OF_MEMORY = 2, NO_SUCH_GPU = 101, HOST_WAITS = 901, PAGEABLE = 902 };
static const size_t GPU_MEMORY = 80ul << 30;
static char handle[64]; /* stands for every object that is only passed on */

const char *cudaGetErrorName(int error) { return error ? "pretendError" : "pretendSuccess"; }
const char *cudaGetErrorString(int error) {
    switch (error) {
    case 0: return "no error";
    case OUT_OF_MEMORY: return "out of memory";
    case NO_SUCH_GPU: return "there is no such GPU";
    case HOST_WAITS: return "the host waits for the GPU";
    case PAGEABLE: return "a copy between the GPU and pageable memory";
    default: return "another error";
    }
}

/* ---- what is forbidden */

static atomic_int strict;
int pretend_strict(int on) { return atomic_exchange(&strict, on); } /* what it was before */

static int wait_for_gpu(void) { return strict ? HOST_WAITS : 0; }
int cudaDeviceSynchronize(void) { return wait_for_gpu(); }
int cudaStreamSynchronize(void *stream) { return wait_for_gpu(); }
int cudaEventSynchronize(void *event) { return wait_for_gpu(); }

/* ---- memory: a range of addresses for each kind, never used twice, so that fresh memory is zero */

struct range { char *start; size_t size; atomic_size_t used; };
static struct range gpu = {.size = 1ul << 40}, pinned = {.size = 1ul << 36};

static int take(struct range *range, void **pointer, size_t size) {
    size_t place = atomic_fetch_add(&range->used, (size + 511) & ~511ul);
    *pointer = range->start + place;
    return place + size > range->size ? OUT_OF_MEMORY : 0;
}
static int is_in(const struct range *range, const void *pointer) {
    return (const char *)pointer >= range->start && (const char *)pointer < range->start + range->size;
}
__attribute__((constructor)) static void reserve(void) {
    struct range *ranges[] = {&gpu, &pinned};
    for (int n = 0; n < 2; n++)
        ranges[n]->start = mmap(0, ranges[n]->size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

int cudaMalloc(void **pointer, size_t size) { return take(&gpu, pointer, size); }
int cudaHostAlloc(void **pointer, size_t size, unsigned flags) { return take(&pinned, pointer, size); }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = GPU_MEMORY; return 0; }
int cudaPointerGetAttributes(struct cudaPointerAttributes *found, void *pointer) {
    memset(found, 0, sizeof *found);
    found->type = is_in(&gpu, pointer) ? cudaMemoryTypeDevice
                  : is_in(&pinned, pointer) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    found->devicePointer = found->hostPointer = pointer;
    return 0;
}

static int copy(void *to, const void *from, size_t size) {
    const void *host = is_in(&gpu, to) ? from : to;
    if (strict && !is_in(&gpu, host) && !is_in(&pinned, host)) return PAGEABLE;
    memmove(to, from, size);
    return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { return copy(to, from, size); }
int cudaMemcpyPeerAsync(void *to, int gpu_to, const void *from, int gpu_from, size_t size, void *stream) {
    return copy(to, from, size);
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    int error = wait_for_gpu();
    return error ? error : copy(to, from, size);
}
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { memset(to, value, size); return 0; }
int cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return 0; }

/* ---- the GPUs, with the numbers of an H100 */

static _Thread_local int current;
int cudaGetDeviceCount(int *count) {
    const char *wanted = getenv("PRETEND_GPUS");
    *count = wanted ? atoi(wanted) : 1;
    return 0;
}
int cudaGetDevice(int *device) { *device = current; return 0; }
int cudaSetDevice(int device) {
    int count;
    cudaGetDeviceCount(&count);
    if (device < 0 || device >= count) return NO_SUCH_GPU;
    current = device;
    return 0;
}
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    strcpy(found->name, "Pretend GPU");
    found->totalGlobalMem = GPU_MEMORY;
    found->major = 9;
    found->multiProcessorCount = 132;
    found->warpSize = 32;
    found->maxThreadsPerBlock = found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxThreadsPerMultiProcessor = 2048;
    found->maxGridSize[0] = 2147483647;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->maxBlocksPerMultiProcessor = 32;
    found->sharedMemPerBlock = 48 << 10;
    found->sharedMemPerBlockOptin = 227 << 10;
    found->sharedMemPerMultiprocessor = 228 << 10;
    found->regsPerBlock = found->regsPerMultiprocessor = 65536;
    found->l2CacheSize = 50 << 20;
    found->textureAlignment = 512;
    return 0;
}
int cudaGetDeviceProperties_v2(struct cudaDeviceProp *found, int device) {
    return cudaGetDeviceProperties(found, device); /* the name of it in CUDA 12 */
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    struct cudaDeviceProp gpu;
    cudaGetDeviceProperties(&gpu, device);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = gpu.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = gpu.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = gpu.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = gpu.sharedMemPerBlockOptin; break;
    default: *value = 1;
    }
    return 0;
}
int cudaDeviceCanAccessPeer(int *can, int device, int other) { *can = 1; return 0; }
int cudaDeviceGetPCIBusId(char *id, int size, int device) { snprintf(id, size, "0000:00:%02x.0", device); return 0; }

/* ---- streams and kernels, where torch reads an answer */

int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaStreamGetCaptureInfo(void *stream, int *status) { *status = 0; return 0; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024;
    found->binaryVersion = found->ptxVersion = 90;
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count) { *count = 1; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count) { *count = 1; return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *lt, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, void *results, int *count) {
    *count = 1;
    return 0;
}

/* ---- the driver */

static int do_nothing(void) { return 0; }
int cuCtxGetCurrent(void **context) { *context = handle; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cudaGetDriverEntryPointByVersion(const char *name, void **function) {
    *function = strcmp(name, "cuDevicePrimaryCtxGetState") ? (void *)do_nothing : (void *)cuDevicePrimaryCtxGetState;
    return 0;
}
int cudaGetDriverEntryPoint(const char *name, void **function) {
    return cudaGetDriverEntryPointByVersion(name, function);
}

/* ---- NCCL: every rank behaves as if all had what it has */

static int number(const char *name) { return atoi(getenv(name)); }
static int exchange(const char *kind, const void *from, void *to, size_t count, int type, int times) {
    static const size_t SIZES[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2}; /* by ncclDataType_t */
    const char *path = getenv("PRETEND_COLLECTIVES");
    if (path) {
        char name[4096];
        snprintf(name, sizeof name, "%s.%s", path, getenv("RANK"));
        FILE *file = fopen(name, "a");
        fprintf(file, "%s %zu of type %d\n", kind, count, type);
        fclose(file);
    }
    for (int n = 0; n < times; n++) memmove((char *)to + n * count * SIZES[type], from, count * SIZES[type]);
    return 0;
}
int ncclAllReduce(const void *from, void *to, size_t count, int type) {
    return exchange("all-reduce", from, to, count, type, 1);
}
int ncclBroadcast(const void *from, void *to, size_t count, int type) {
    return exchange("broadcast", from, to, count, type, 1);
}
int ncclBcast(void *values, size_t count, int type) { return exchange("broadcast", values, values, count, type, 1); }
int ncclAllGather(const void *from, void *to, size_t count, int type) {
    return exchange("all-gather", from, to, count, type, number("WORLD_SIZE"));
}
int ncclReduceScatter(const void *from, void *to, size_t count, int type) {
    return exchange("reduce-scatter", from, to, count, type, 1);
}
int ncclGetVersion(int *version) { *version = 22300; return 0; }
int ncclCommInitRank(void **comm) { *comm = handle; return 0; }
int ncclCommInitRankConfig(void **comm) { *comm = handle; return 0; }
int ncclCommInitRankScalable(void **comm) { *comm = handle; return 0; }
int ncclCommGetAsyncError(void *comm, int *error) { *error = 0; return 0; }
int ncclCommCount(void *comm, int *count) { *count = number("WORLD_SIZE"); return 0; }
int ncclCommUserRank(void *comm, int *rank) { *rank = number("RANK"); return 0; }
int ncclCommCuDevice(void *comm, int *device) { *device = current; return 0; }
const char *ncclGetErrorString(int error) { return "another error"; }
const char *ncclGetLastError(void *comm) { return "another error"; }
