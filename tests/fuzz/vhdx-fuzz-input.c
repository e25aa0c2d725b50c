/*
 * VHDX fuzz target: an image file in few bytes
 *
 * All numbers are little-endian.  First the file's size and the seed, 8 bytes
 * each; then pieces until the end:
 *
 *   0   u64  offset
 *   8   u64  step
 *   16  u32  length
 *   20  u32  count, 0 stands for 1
 *   24  u32  step_at
 *   28  u32  not used
 *   32       length bytes, fewer if the input ends
 *
 * So a file of many TiB, or a BAT of a million entries, is some dozen bytes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vhdx-fuzz.h"

#define INPUT_HEADER    16
#define PIECE_HEADER    32

/* Files longer than this the block layer does not know. */
#define MAX_SIZE        ((uint64_t)INT64_MAX - GiB)

static void piece_free(void *opaque)
{
    FuzzPiece *p = opaque;

    g_free(p->data);
    g_free(p);
}

FuzzInput *input_parse(const uint8_t *buf, size_t bytes)
{
    FuzzInput *in = g_new0(FuzzInput, 1);
    size_t pos = INPUT_HEADER;

    in->pieces = g_ptr_array_new_with_free_func(piece_free);
    if (bytes < INPUT_HEADER) {
        return in;
    }
    in->size = MIN(ldq_le_p(buf), MAX_SIZE);
    in->seed = ldq_le_p(buf + 8);
    while (pos + PIECE_HEADER < bytes) {
        size_t rest = bytes - pos - PIECE_HEADER;
        uint32_t length = MIN((uint32_t)ldl_le_p(buf + pos + 16), rest);
        FuzzPiece *p = input_add(in, ldq_le_p(buf + pos),
                                 buf + pos + PIECE_HEADER, length);

        p->step = ldq_le_p(buf + pos + 8);
        p->count = MAX((uint32_t)ldl_le_p(buf + pos + 20), 1);
        p->step_at = ldl_le_p(buf + pos + 24);
        pos += PIECE_HEADER + length;
    }
    return in;
}

void input_free(FuzzInput *in)
{
    g_ptr_array_unref(in->pieces);
    g_free(in);
}

size_t input_store(const FuzzInput *in, uint8_t *buf, size_t most)
{
    size_t pos = INPUT_HEADER;

    if (most < INPUT_HEADER) {
        return 0;
    }
    stq_le_p(buf, in->size);
    stq_le_p(buf + 8, in->seed);
    for (guint i = 0; i < in->pieces->len; i++) {
        const FuzzPiece *p = g_ptr_array_index(in->pieces, i);

        if (!p->length || p->length + PIECE_HEADER > most - pos) {
            continue;
        }
        memset(buf + pos, 0, PIECE_HEADER);
        stq_le_p(buf + pos, p->offset);
        stq_le_p(buf + pos + 8, p->step);
        stl_le_p(buf + pos + 16, p->length);
        stl_le_p(buf + pos + 20, p->count);
        stl_le_p(buf + pos + 24, p->step_at);
        memcpy(buf + pos + PIECE_HEADER, p->data, p->length);
        pos += PIECE_HEADER + p->length;
    }
    return pos;
}

/* Write a piece, of which no more than @most bytes count. */
static uint64_t piece_write(const FuzzPiece *p, CrashImage *img, uint64_t most)
{
    uint64_t count = p->length ? MIN(p->count, most / p->length) : 0;
    uint64_t bytes = count * p->length;
    g_autofree uint8_t *buf = NULL;

    if (!bytes || p->offset > MAX_SIZE - bytes) {
        return 0;
    }
    buf = g_malloc(bytes);
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *at = buf + i * p->length;

        memcpy(at, p->data, p->length);
        if (p->step && p->length >= 8 && p->step_at <= p->length - 8) {
            at += p->step_at;
            stq_le_p(at, ldq_le_p(at) + i * p->step);
        }
    }
    image_write(img, p->offset, bytes, buf);
    return bytes;
}

CrashImage *input_image(const FuzzInput *in)
{
    CrashImage *img = image_new(in->size, false);
    uint64_t most = FUZZ_MAX_CONTENT;

    for (guint i = 0; i < in->pieces->len; i++) {
        most -= piece_write(g_ptr_array_index(in->pieces, i), img, most);
    }
    image_truncate(img, in->size);
    return img;
}

FuzzPiece *input_add(FuzzInput *in, uint64_t offset, const void *data,
                     uint32_t length)
{
    FuzzPiece *p = g_new(FuzzPiece, 1);

    *p = (FuzzPiece) {
        .offset = offset,
        .length = length,
        .count = 1,
        .data = g_memdup2(data, length),
    };
    g_ptr_array_add(in->pieces, p);
    return p;
}

void input_poke(FuzzInput *in, uint64_t offset, const void *data,
                uint32_t length)
{
    for (guint i = in->pieces->len; i-- > 0;) {
        FuzzPiece *p = g_ptr_array_index(in->pieces, i);
        uint64_t bytes = (uint64_t)p->length * p->count;

        if (offset + length <= p->offset || offset - p->offset >= bytes) {
            continue;
        }
        if (p->count == 1 && offset >= p->offset &&
            offset + length <= p->offset + bytes) {
            memcpy(p->data + (offset - p->offset), data, length);
            return;
        }
        /* It is here in part, or in many places: go over it. */
        break;
    }
    input_add(in, offset, data, length);
}
