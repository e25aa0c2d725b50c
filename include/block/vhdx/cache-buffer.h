/*
 * VHDX: memory for metadata pages
 *
 * Nothing here knows of locks: who has buffers guards them.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CACHE_BUFFER_H
#define BLOCK_VHDX_CACHE_BUFFER_H

/* Buffers in a chunk, which is aligned to its size */
#define VHDX_CHUNK_BUFFERS      64

typedef struct VHDXBuffers VHDXBuffers;

VHDXBuffers *vhdx_buffers_new(void);

/* Give back all memory, also that of buffers in use. */
void vhdx_buffers_free(VHDXBuffers *b);

/* A buffer of a page's size, which may hold anything; to give it back. */
uint8_t *vhdx_buffer_get(VHDXBuffers *b);
void vhdx_buffer_put(VHDXBuffers *b, uint8_t *data);

/* Give back the memory of chunks of which no buffer is in use. */
void vhdx_buffers_shrink(VHDXBuffers *b);

/* How many buffers are in use, and how many chunks there are. */
unsigned vhdx_buffers_in_use(const VHDXBuffers *b);
unsigned vhdx_buffers_chunks(const VHDXBuffers *b);

#endif
