/* Do two processes keep their AVX registers when the kernel switches between them?
 *
 * Each process fills all sixteen ymm registers with a pattern of its own, gives the kernel reason
 * to switch (it spins until the timer takes the CPU away, or yields it), stores the registers and
 * compares. A kernel that saves only SSE state loses the upper halves; one whose XSAVE is restored
 * wrongly mixes the processes' patterns. */
#define _GNU_SOURCE
#include "avx.h"

#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROCESSES 3
#define REGISTERS 16

struct tally {
    long rounds;
    long corrupted;
};

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* One round: load, let the kernel switch, store. It is one piece of assembly so that nothing the
 * compiler does can touch a vector register in between. */
__attribute__((target("avx2"))) static void round_trip(const uint64_t in[REGISTERS][4],
                                                       uint64_t out[REGISTERS][4], long spins) {
    long yield = SYS_sched_yield;
    __asm__ volatile(
        "vmovdqu 0(%[in]), %%ymm0\n\t"
        "vmovdqu 32(%[in]), %%ymm1\n\t"
        "vmovdqu 64(%[in]), %%ymm2\n\t"
        "vmovdqu 96(%[in]), %%ymm3\n\t"
        "vmovdqu 128(%[in]), %%ymm4\n\t"
        "vmovdqu 160(%[in]), %%ymm5\n\t"
        "vmovdqu 192(%[in]), %%ymm6\n\t"
        "vmovdqu 224(%[in]), %%ymm7\n\t"
        "vmovdqu 256(%[in]), %%ymm8\n\t"
        "vmovdqu 288(%[in]), %%ymm9\n\t"
        "vmovdqu 320(%[in]), %%ymm10\n\t"
        "vmovdqu 352(%[in]), %%ymm11\n\t"
        "vmovdqu 384(%[in]), %%ymm12\n\t"
        "vmovdqu 416(%[in]), %%ymm13\n\t"
        "vmovdqu 448(%[in]), %%ymm14\n\t"
        "vmovdqu 480(%[in]), %%ymm15\n\t"
        "test %[spins], %[spins]\n\t"
        "jz 2f\n\t"
        "1: dec %[spins]\n\t"
        "jnz 1b\n\t"
        "jmp 3f\n\t"
        "2: syscall\n\t"
        "3:\n\t"
        "vmovdqu %%ymm0, 0(%[out])\n\t"
        "vmovdqu %%ymm1, 32(%[out])\n\t"
        "vmovdqu %%ymm2, 64(%[out])\n\t"
        "vmovdqu %%ymm3, 96(%[out])\n\t"
        "vmovdqu %%ymm4, 128(%[out])\n\t"
        "vmovdqu %%ymm5, 160(%[out])\n\t"
        "vmovdqu %%ymm6, 192(%[out])\n\t"
        "vmovdqu %%ymm7, 224(%[out])\n\t"
        "vmovdqu %%ymm8, 256(%[out])\n\t"
        "vmovdqu %%ymm9, 288(%[out])\n\t"
        "vmovdqu %%ymm10, 320(%[out])\n\t"
        "vmovdqu %%ymm11, 352(%[out])\n\t"
        "vmovdqu %%ymm12, 384(%[out])\n\t"
        "vmovdqu %%ymm13, 416(%[out])\n\t"
        "vmovdqu %%ymm14, 448(%[out])\n\t"
        "vmovdqu %%ymm15, 480(%[out])\n\t"
        "vzeroupper\n\t"
        : [spins] "+r"(spins), "+a"(yield)
        : [in] "r"(in), [out] "r"(out)
        : "rcx", "r11", "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
          "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void check(uint64_t id, double until, struct tally *tally) {
    uint64_t in[REGISTERS][4], out[REGISTERS][4];
    while (seconds_now() < until) {
        for (uint64_t r = 0; r < REGISTERS; r++)
            for (uint64_t lane = 0; lane < 4; lane++)
                in[r][lane] = id << 56 | r << 48 | lane << 40 | (uint64_t)tally->rounds;
        memset(out, 0, sizeof out);
        /* Nine rounds spin, some milliseconds each, so that the timer switches; the tenth yields. */
        round_trip(in, out, tally->rounds % 10 == 9 ? 0 : 4000000);
        tally->rounds++;
        if (memcmp(in, out, sizeof in) != 0) tally->corrupted++;
    }
}

size_t avx_report(long seconds, char *report, size_t room) {
    if (!__builtin_cpu_supports("avx2")) return (size_t)snprintf(report, room, "{\"avx\":false}");
    struct tally *tallies = mmap(NULL, PROCESSES * sizeof *tallies, PROT_READ | PROT_WRITE,
                                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tallies == MAP_FAILED) return (size_t)snprintf(report, room, "{\"error\":\"mmap\"}");
    double until = seconds_now() + (double)seconds;
    int started = 0;
    for (; started < PROCESSES; started++) {
        pid_t child = fork();
        if (child < 0) break;
        if (child == 0) {
            check((uint64_t)started + 1, until, &tallies[started]);
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {}
    struct tally all = {0, 0};
    for (int i = 0; i < PROCESSES; i++) {
        all.rounds += tallies[i].rounds;
        all.corrupted += tallies[i].corrupted;
    }
    munmap(tallies, PROCESSES * sizeof *tallies);
    return (size_t)snprintf(report, room,
                            "{\"avx\":true,\"processes\":%d,\"rounds\":%ld,\"corrupted\":%ld}",
                            started, all.rounds, all.corrupted);
}
