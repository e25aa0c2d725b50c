/*
 * VHDX: memory for metadata pages
 *
 * Buffers are cut from chunks, since an aligned allocation of 4 KiB takes twice
 * as much of the C library.  Chunks are kept until they are asked back.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "block/vhdx/format.h"
#include "block/vhdx/cache-buffer.h"

#define CHUNK_BYTES     (VHDX_CHUNK_BUFFERS * VHDX_PAGE_SIZE)

/* Of a buffer that is not in use */
typedef struct FreeBuffer {
    struct FreeBuffer *next;
} FreeBuffer;

struct VHDXBuffers {
    GPtrArray *chunks;              /* memory that buffers are cut from */
    FreeBuffer *unused;
    unsigned in_use;                /* number of buffers */
};

VHDXBuffers *vhdx_buffers_new(void)
{
    VHDXBuffers *b = g_new0(VHDXBuffers, 1);

    b->chunks = g_ptr_array_new_with_free_func(qemu_vfree);
    return b;
}

void vhdx_buffers_free(VHDXBuffers *b)
{
    g_ptr_array_unref(b->chunks);
    g_free(b);
}

uint8_t *vhdx_buffer_get(VHDXBuffers *b)
{
    FreeBuffer *buf = b->unused;

    if (!buf) {
        uint8_t *chunk = qemu_memalign(CHUNK_BYTES, CHUNK_BYTES);

        g_ptr_array_add(b->chunks, chunk);
        for (int i = 0; i < VHDX_CHUNK_BUFFERS; i++) {
            buf = (FreeBuffer *)(chunk + i * VHDX_PAGE_SIZE);
            buf->next = b->unused;
            b->unused = buf;
        }
    }
    b->unused = buf->next;
    b->in_use++;
    return (uint8_t *)buf;
}

void vhdx_buffer_put(VHDXBuffers *b, uint8_t *data)
{
    FreeBuffer *buf = (FreeBuffer *)data;

    buf->next = b->unused;
    b->unused = buf;
    b->in_use--;
}

/* The chunk that @buf was cut from */
static void *chunk_of(const void *buf)
{
    return (void *)(uintptr_t)QEMU_ALIGN_DOWN((uintptr_t)buf, CHUNK_BYTES);
}

void vhdx_buffers_shrink(VHDXBuffers *b)
{
    g_autoptr(GHashTable) unused = g_hash_table_new(NULL, NULL);
    FreeBuffer *buf = b->unused, *next;

    for (; buf; buf = buf->next) {
        void *chunk = chunk_of(buf);
        uintptr_t count = (uintptr_t)g_hash_table_lookup(unused, chunk);

        g_hash_table_insert(unused, chunk, (void *)(count + 1));
    }
    buf = b->unused;
    b->unused = NULL;
    for (; buf; buf = next) {
        void *chunk = chunk_of(buf);

        next = buf->next;
        if ((uintptr_t)g_hash_table_lookup(unused, chunk) <
            VHDX_CHUNK_BUFFERS) {
            buf->next = b->unused;
            b->unused = buf;
        }
    }
    for (guint i = b->chunks->len; i-- > 0;) {
        void *chunk = g_ptr_array_index(b->chunks, i);

        if ((uintptr_t)g_hash_table_lookup(unused, chunk) ==
            VHDX_CHUNK_BUFFERS) {
            g_ptr_array_remove_index_fast(b->chunks, i);
        }
    }
}

unsigned vhdx_buffers_in_use(const VHDXBuffers *b)
{
    return b->in_use;
}

unsigned vhdx_buffers_chunks(const VHDXBuffers *b)
{
    return b->chunks->len;
}
