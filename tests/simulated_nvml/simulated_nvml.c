/* A simulated libnvidia-ml.so.1, for tests on machines without a GPU. Nothing in it is NVIDIA's.
 *
 * A process is on a device where its environment names the device's UUID in CUDA_VISIBLE_DEVICES, as it is with
 * CUDA. Its GPU memory is its resident memory, its utilization is its CPU time over that of one core.
 *
 * The file named by $SIMULATED_NVML is read again at every call, one word of command per line:
 *
 *   gpu UUID MEMORY_MIB COMPUTE_MODE MIG_MODE NAME     a GPU; the next ones get the next indexes
 *   mig UUID MEMORY_MIB SLICES                         a MIG device of the GPU named last
 *   answer FUNCTION CODE                               that function answers with this nvmlReturn_t
 *   hang FUNCTION                                      that function does not return while this line is there
 *   lost UUID                                          calls about that device answer NVML_ERROR_GPU_IS_LOST
 *   throttle UUID MASK                                 reasons why its clocks are low
 *   used UUID MIB                                      memory that no process accounts for
 *   hide memory | hide processes                       per-process memory, or processes, are not told
 *
 * A library without a symbol is made by the compiler: -DnvmlDeviceGetX=absent_nvmlDeviceGetX.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { MAX_DEVICES = 32, MAX_PROCESSES = 64, MIB = 1 << 20 };
#define NOT_TOLD (~0ULL)
#define SAMPLE_NS 50000000ULL
#define IDLE_WATTS 50
#define WATTS_PER_CORE 200

typedef struct {
    char uuid[96], name[96];
    unsigned long long memory, used;
    int compute_mode, mig_mode, slices, parent, index;  /* parent: -1 for a GPU */
    int lost;
    unsigned long long throttle;
} Device;

typedef struct {
    unsigned pid;
    unsigned long long resident, cpu_ns;
} Process;

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } ProcessInfo;
typedef struct { unsigned pid; unsigned long long time_us; unsigned sm, memory, encoder, decoder; } ProcessSample;
typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    unsigned long long memory_mb;
} Attributes;

/* A sample is taken when somebody asks, at most every SAMPLE_NS: what its processes did since the one before. */
typedef struct {
    unsigned long long at_ns, unix_us, cpu_ns_ever;
    int count;
    Process last[MAX_PROCESSES];
    unsigned percent[MAX_PROCESSES];
} Samples;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Device devices[MAX_DEVICES];
static int device_count, hide_memory, hide_processes;
static Samples samples[MAX_DEVICES];

static unsigned long long now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static Device *find(const char *uuid)
{
    for (int i = 0; i < device_count; i++)
        if (!strcmp(devices[i].uuid, uuid))
            return &devices[i];
    return NULL;
}

/* Reads the file; *answer and *hang say what it wants of `function`. */
static void read_orders(const char *function, int *answer, int *hang)
{
    const char *path = getenv("SIMULATED_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], word[160];
    int code, gpu = -1, migs = 0, gpus = 0;

    *answer = SUCCESS;
    *hang = 0;
    if (!file)
        return;
    device_count = hide_memory = hide_processes = 0;
    while (fgets(line, sizeof line, file)) {
        Device d = {.parent = -1};
        unsigned long long number;
        if (sscanf(line, "gpu %95s %llu %d %d %95[^\n]", d.uuid, &number, &d.compute_mode, &d.mig_mode, d.name) == 5) {
            d.memory = number * MIB;
            d.index = gpus++;
            migs = 0;
            gpu = device_count;
            devices[device_count++] = d;
        } else if (sscanf(line, "mig %95s %llu %d", d.uuid, &number, &d.slices) == 3) {
            d.memory = number * MIB;
            d.parent = gpu;
            d.index = migs++;
            snprintf(d.name, sizeof d.name, "%s", devices[gpu].name);
            devices[device_count++] = d;
        } else if (sscanf(line, "answer %159s %d", word, &code) == 2) {
            if (!strcmp(word, function))
                *answer = code;
        } else if (sscanf(line, "hang %159s", word) == 1) {
            if (!strcmp(word, function))
                *hang = 1;
        } else if (sscanf(line, "lost %159s", word) == 1) {
            if (find(word))
                find(word)->lost = 1;
        } else if (sscanf(line, "throttle %159s %lli", word, (long long *)&number) == 2) {
            if (find(word))
                find(word)->throttle = number;
        } else if (sscanf(line, "used %159s %llu", word, &number) == 2) {
            if (find(word))
                find(word)->used = number * MIB;
        } else if (!strncmp(line, "hide memory", 11)) {
            hide_memory = 1;
        } else if (!strncmp(line, "hide processes", 14)) {
            hide_processes = 1;
        }
    }
    fclose(file);
}

static int orders(const char *function)
{
    int answer, hang;
    for (;;) {
        pthread_mutex_lock(&lock);
        read_orders(function, &answer, &hang);
        pthread_mutex_unlock(&lock);
        if (!hang)
            return answer;
        usleep(20000);
    }
}

/* A handle is a pointer to an entry of `devices`, whose place does not change. */
static int orders_about(const char *function, const Device *d)
{
    int answer = orders(function);
    if (answer != SUCCESS)
        return answer;
    if (d < devices || d >= devices + device_count)
        return INVALID_ARGUMENT;
    return d->lost || (d->parent >= 0 && devices[d->parent].lost) ? GPU_IS_LOST : SUCCESS;
}

#define BEGIN(device)                                         \
    do {                                                      \
        int code = orders_about(__func__, (device));          \
        if (code != SUCCESS)                                  \
            return code;                                      \
    } while (0)

static ssize_t read_proc(const char *pid, const char *name, char *buffer, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
    int file = open(path, O_RDONLY);
    if (file < 0)
        return -1;
    ssize_t length = 0, part;
    while (length < (ssize_t)size - 1 && (part = read(file, buffer + length, size - 1 - length)) > 0)
        length += part;
    close(file);
    buffer[length] = 0;
    return length;
}

static int sees(const char *pid, const Device *d)
{
    static char environment[1 << 17];
    ssize_t length = read_proc(pid, "environ", environment, sizeof environment);
    for (ssize_t i = 0; i < length; i += strlen(environment + i) + 1)
        if (!strncmp(environment + i, "CUDA_VISIBLE_DEVICES=", 21)) {
            const char *value = strstr(environment + i + 21, d->uuid);
            char end = value ? value[strlen(d->uuid)] : 'x';
            return end == 0 || end == ',';
        }
    return 0;
}

static int one_process(const char *pid, Process *found)
{
    char text[1024];
    unsigned long long pages, user, system;
    if (read_proc(pid, "statm", text, sizeof text) <= 0 || sscanf(text, "%*u %llu", &pages) != 1 || pages == 0)
        return 0;
    if (read_proc(pid, "stat", text, sizeof text) <= 0 || !strrchr(text, ')'))
        return 0;
    if (sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        return 0;
    found->pid = atoi(pid);
    found->resident = pages * sysconf(_SC_PAGESIZE);
    found->cpu_ns = (user + system) * (1000000000ULL / sysconf(_SC_CLK_TCK));
    return 1;
}

/* Processes on a device; on a GPU those of its MIG devices too. Call with the lock held. */
static int processes(const Device *d, Process *found)
{
    int count = 0;
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    while (proc && (entry = readdir(proc)) && count < MAX_PROCESSES) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        int here = sees(entry->d_name, d);
        for (int i = 0; !here && i < device_count; i++)
            here = devices[i].parent == d - devices && sees(entry->d_name, &devices[i]);
        if (here)
            count += one_process(entry->d_name, &found[count]);
    }
    if (proc)
        closedir(proc);
    return count;
}

static void take_sample(const Device *d)
{
    Samples *s = &samples[d - devices];
    unsigned long long now = now_ns(CLOCK_MONOTONIC);
    if (s->at_ns && now - s->at_ns < SAMPLE_NS)
        return;
    Process found[MAX_PROCESSES];
    unsigned percent[MAX_PROCESSES] = {0};
    int count = processes(d, found);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < s->count; k++)
            if (s->last[k].pid == found[i].pid && found[i].cpu_ns > s->last[k].cpu_ns) {
                unsigned long long spent = found[i].cpu_ns - s->last[k].cpu_ns;
                s->cpu_ns_ever += spent;
                percent[i] = spent * 100 / (now - s->at_ns);
                percent[i] = percent[i] > 100 ? 100 : percent[i];
            }
    memcpy(s->last, found, sizeof found);
    memcpy(s->percent, percent, sizeof percent);
    s->count = count;
    s->at_ns = now;
    s->unix_us = now_ns(CLOCK_REALTIME) / 1000;
}

static unsigned utilization(const Device *d)
{
    unsigned sum = 0;
    pthread_mutex_lock(&lock);
    take_sample(d);
    for (int i = 0; i < samples[d - devices].count; i++)
        sum += samples[d - devices].percent[i];
    pthread_mutex_unlock(&lock);
    return sum > 100 ? 100 : sum;
}

static unsigned long long used(const Device *d)
{
    Process found[MAX_PROCESSES];
    unsigned long long sum = d->used;
    pthread_mutex_lock(&lock);
    for (int i = processes(d, found) - 1; i >= 0; i--)
        sum += found[i].resident;
    pthread_mutex_unlock(&lock);
    return sum;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return orders(__func__); }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code)
{
    static char text[32];
    snprintf(text, sizeof text, "simulated error %d", code);
    return text;
}

static int say(char *buffer, unsigned length, const char *text)
{
    return snprintf(buffer, length, "%s", text) < (int)length ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlSystemGetDriverVersion(char *buffer, unsigned length)
{
    int code = orders(__func__);
    return code ? code : say(buffer, length, "550.00.simulated");
}

int nvmlSystemGetNVMLVersion(char *buffer, unsigned length)
{
    int code = orders(__func__);
    return code ? code : say(buffer, length, "12.550.00.simulated");
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    *version = 12040;
    return orders(__func__);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    int code = orders(__func__);
    *count = 0;
    for (int i = 0; i < device_count; i++)
        *count += devices[i].parent < 0;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **found)
{
    int code = orders(__func__);
    for (int i = 0; i < device_count && !code; i++)
        if (devices[i].parent < 0 && devices[i].index == (int)index) {
            *found = &devices[i];
            return orders_about(__func__, *found);
        }
    return code ? code : INVALID_ARGUMENT;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **found)
{
    int code = orders(__func__);
    if (code)
        return code;
    *found = find(uuid);
    return *found ? orders_about(__func__, *found) : NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *d, char *buffer, unsigned length) { BEGIN(d); return say(buffer, length, d->uuid); }
int nvmlDeviceGetName(Device *d, char *buffer, unsigned length) { BEGIN(d); return say(buffer, length, d->name); }
int nvmlDeviceGetIndex(Device *d, unsigned *index) { BEGIN(d); *index = d->index; return SUCCESS; }

int nvmlDeviceGetMemoryInfo(Device *d, Memory *memory)
{
    BEGIN(d);
    memory->total = d->memory;
    memory->used = used(d) + d->memory / 100; /* version 1 counts what the driver keeps as used */
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(Device *d, MemoryV2 *memory)
{
    BEGIN(d);
    memory->total = d->memory;
    memory->reserved = d->memory / 100;
    memory->used = used(d);
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(Device *d, Utilization *rates)
{
    BEGIN(d);
    if (d->parent >= 0 || d->mig_mode)
        return NOT_SUPPORTED;
    rates->gpu = utilization(d);
    rates->memory = rates->gpu / 2;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(Device *d, unsigned *milliwatts)
{
    BEGIN(d);
    if (d->parent >= 0)
        return NOT_SUPPORTED;
    *milliwatts = IDLE_WATTS * 1000 + WATTS_PER_CORE * 10 * utilization(d);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *millijoules)
{
    BEGIN(d);
    if (d->parent >= 0)
        return NOT_SUPPORTED;
    utilization(d);
    *millijoules = now_ns(CLOCK_MONOTONIC) / 1000000 * IDLE_WATTS
                 + samples[d - devices].cpu_ns_ever / 1000000 * WATTS_PER_CORE;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(Device *d, unsigned *milliwatts)
{
    BEGIN(d);
    *milliwatts = 400000;
    return d->parent >= 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetClockInfo(Device *d, int kind, unsigned *mhz)
{
    BEGIN(d);
    *mhz = kind == 2 ? 1593 : d->throttle ? 900 : 1410;
    return d->parent >= 0 ? NOT_SUPPORTED : SUCCESS;
}

static int reasons(Device *d, unsigned long long *mask)
{
    *mask = d->throttle;
    return d->parent >= 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *d, unsigned long long *mask) { BEGIN(d); return reasons(d, mask); }
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, unsigned long long *mask) { BEGIN(d); return reasons(d, mask); }

int nvmlDeviceGetComputeMode(Device *d, int *mode) { BEGIN(d); *mode = d->compute_mode; return SUCCESS; }

int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending)
{
    BEGIN(d);
    *current = *pending = d->mig_mode;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *count)
{
    BEGIN(d);
    *count = d->mig_mode ? 7 : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **found)
{
    BEGIN(d);
    for (int i = 0; i < device_count; i++)
        if (devices[i].parent == d - devices && devices[i].index == (int)index) {
            *found = &devices[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceIsMigDeviceHandle(Device *d, unsigned *is) { BEGIN(d); *is = d->parent >= 0; return SUCCESS; }

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *d, Device **parent)
{
    BEGIN(d);
    if (d->parent < 0)
        return INVALID_ARGUMENT;
    *parent = &devices[d->parent];
    return SUCCESS;
}

int nvmlDeviceGetAttributes_v2(Device *d, Attributes *attributes)
{
    BEGIN(d);
    if (d->parent < 0)
        return NOT_SUPPORTED;
    *attributes = (Attributes){.gpu_slices = d->slices, .compute_slices = d->slices, .memory_mb = d->memory / MIB};
    return SUCCESS;
}

static int running(Device *d, unsigned *count, ProcessInfo *info)
{
    Process found[MAX_PROCESSES];
    pthread_mutex_lock(&lock);
    int here = hide_processes ? 0 : processes(d, found), hidden = hide_memory;
    pthread_mutex_unlock(&lock);
    unsigned room = info ? *count : 0;
    *count = here;
    if ((unsigned)here > room)
        return INSUFFICIENT_SIZE;
    for (int i = 0; i < here; i++)
        info[i] = (ProcessInfo){.pid = found[i].pid, .used = hidden ? NOT_TOLD : found[i].resident};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *count, ProcessInfo *info)
{
    BEGIN(d);
    return running(d, count, info);
}

int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, unsigned *count, ProcessInfo *info)
{
    BEGIN(d);
    return running(d, count, info);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *d, unsigned *count, ProcessInfo *info)
{
    BEGIN(d);
    (void)info;
    *count = 0;
    return SUCCESS;
}

int nvmlDeviceGetProcessUtilization(Device *d, ProcessSample *out, unsigned *count, unsigned long long since_us)
{
    BEGIN(d);
    if (d->parent >= 0 || d->mig_mode)
        return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    if (!out)
        take_sample(d);
    Samples *s = &samples[d - devices];
    unsigned room = out ? *count : 0, here = 0;
    int code = SUCCESS;
    for (int i = 0; i < s->count && s->unix_us > since_us; i++) {
        if (!s->percent[i])
            continue;
        if (here < room)
            out[here] = (ProcessSample){.pid = s->last[i].pid, .time_us = s->unix_us, .sm = s->percent[i]};
        here++;
    }
    *count = here;
    if (!here)
        code = NOT_FOUND;
    else if (here > room)
        code = INSUFFICIENT_SIZE;
    pthread_mutex_unlock(&lock);
    return code;
}
