/* Stands in for a child where thousands are needed: does the handshake of mitogend's own runtime and answers each call with its process id,
   as os.getpid() would. It runs no Python, and is a few hundred kilobytes, most of them shared. docs/protocol.md has what it speaks. */
#include <stdint.h>
#include <unistd.h>

enum { CALL_FUNCTION = 101, SHUTDOWN = 106, IS_DEAD = 999, HEADER = 26 };

static void take(void *to, size_t n)
{
    for (char *at = to; n > 0;) {
        ssize_t k = read(0, at, n);
        if (k <= 0)
            _exit(0);
        at += k;
        n -= k;
    }
}

static void skip(uint32_t n)
{
    static char waste[8192];
    for (; n > sizeof waste; n -= sizeof waste)
        take(waste, sizeof waste);
    take(waste, n);
}

static void give(const void *from, size_t n)
{
    for (const char *at = from; n > 0;) {
        ssize_t k = write(1, at, n);
        if (k <= 0)
            _exit(0);
        at += k;
        n -= k;
    }
}

static uint32_t number(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

static void put(unsigned char *at, uint32_t v)
{
    for (int i = 3; i >= 0; i--, v >>= 8)
        at[i] = v;
}

int main(void)
{
    uint32_t size = 0, pid = getpid();
    char c;

    give("MITO000 30b02f0\n", 16);
    for (take(&c, 1); c != '\n'; take(&c, 1))
        size = 10 * size + c - '0';
    give("MITO001\n", 8);
    skip(size);
    give("MITO002\n", 8);
    close(2);
    for (;;) {
        unsigned char in[HEADER], out[HEADER + 8] = "MI";
        take(in, HEADER);
        uint32_t dst = number(in + 2), src = number(in + 6), handle = number(in + 14), reply = number(in + 18);
        if (handle == SHUTDOWN)
            return 0;
        skip(number(in + 22));
        if (handle != CALL_FUNCTION || reply == 0 || reply == IS_DEAD)
            continue;
        put(out + 2, src);
        put(out + 6, dst);
        put(out + 10, dst);
        put(out + 14, reply);
        put(out + 22, 8);
        /* A pickle: protocol 2, an int of four bytes, the end. */
        out[26] = 0x80, out[27] = 2, out[28] = 'J', out[33] = '.';
        for (int i = 0; i < 4; i++)
            out[29 + i] = pid >> 8 * i;
        give(out, sizeof out);
    }
}
