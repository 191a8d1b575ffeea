// SPDX-License-Identifier: Apache-2.0
// A library with the interface of Intel's libsgx_dcap_ql.so.1. What goes wrong stands in the file named by FAKE_DCAP:
// lines "<call> <order>" with call target_info, size or quote and order a hexadecimal error, or "once" and one,
// crash, hang, type3, broken, huge, grow (the certificate chain), new_target.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUOTE_SIZE 4600
#define PPID_SIZE 1456
#define GROWTH 64

static char connected_to_aesm;
static unsigned initialised;

__attribute__((constructor)) static void at_load(void) {
    connected_to_aesm = getenv("SGX_AESM_ADDR") != NULL;
}

static int asked(const char *call, const char *wanted, unsigned *code) {
    char name[32], order[32], number[32];
    int found = 0;
    const char *path = getenv("FAKE_DCAP");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    char line[96];
    while (fgets(line, sizeof line, file)) {
        int words = sscanf(line, "%31s %31s %31s", name, order, number);
        if (words < 2 || strcmp(name, call)) continue;
        if (!strcmp(order, wanted)) found = 1;
        if (code && words == 3 && !strcmp(order, wanted)) *code = (unsigned)strtoul(number, NULL, 16);
    }
    fclose(file);
    return found;
}

static unsigned order_for(const char *call) {
    static unsigned failed_once;
    unsigned code = 0;
    if (connected_to_aesm) return 0xE040;
    if (asked(call, "crash", NULL)) *(volatile int *)1 = 1;
    if (asked(call, "hang", NULL)) for (;;) sleep(60);
    if (asked(call, "always", &code)) return code;
    if (!failed_once && asked(call, "once", &code)) {
        failed_once = 1;
        return code;
    }
    return 0;
}

static uint32_t size_now(void) {
    if (asked("size", "type3", NULL)) return PPID_SIZE;
    if (asked("size", "huge", NULL)) return 1u << 24;
    return QUOTE_SIZE + (asked("size", "grow", NULL) ? GROWTH : 0);
}

uint32_t sgx_qe_get_target_info(uint8_t *out) {
    unsigned code = order_for("target_info");
    if (code) return code;
    memset(out, 't', 512);
    if (initialised && asked("target_info", "new_target", NULL)) out[0] = 'T';
    initialised++;
    return 0;
}

uint32_t sgx_qe_get_quote_size(uint32_t *size) {
    unsigned code = order_for("size");
    if (code) return code;
    if (!initialised) return 0xE00F;
    *size = size_now();
    return 0;
}

static void put(uint8_t *at, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> (8 * i));
}

uint32_t sgx_qe_get_quote(const uint8_t *report, uint32_t size, uint8_t *quote) {
    unsigned code = order_for("quote");
    uint32_t real = size_now();
    if (code) return code;
    if (!initialised) return 0xE00F;
    if (!report || size < real) return 0xE002;
    memset(quote, 0, size);
    put(quote, 3, 2);
    put(quote + 2, 2, 2);
    memcpy(quote + 48, report, 384);
    put(quote + 432, asked("quote", "broken", NULL) ? 0xFFFFFFFFu : real - 436, 4);
    memset(quote + 884, 'p', 32);
    put(quote + 1012, 32, 2);
    put(quote + 1046, asked("quote", "type3", NULL) ? 3 : 5, 2);
    put(quote + 1048, real - 1052, 4);
    memset(quote + 1052, 'c', real - 1053);  // and a NUL behind the certificates, as Intel's provider library has it
    return 0;
}
