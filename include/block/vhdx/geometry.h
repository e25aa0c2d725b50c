/*
 * VHDX: blocks and BAT entries by number, section 2.5
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_GEOMETRY_H
#define BLOCK_VHDX_GEOMETRY_H

#include "block/vhdx/tables.h"

/* A sector bitmap block: a bit for each of 2^23 sectors, bytes. */
#define VHDX_BITMAP_SIZE        VHDX_MIB

#define VHDX_BAT_ENTRY_SIZE     8
#define VHDX_BAT_PAGE_ENTRIES   (VHDX_PAGE_SIZE / VHDX_BAT_ENTRY_SIZE)
#define VHDX_BAT_STATE_MASK     7ULL
#define VHDX_BAT_OFFSET_MASK    (~0ULL << 20)
#define VHDX_BAT_RESERVED_MASK  (~(VHDX_BAT_STATE_MASK | VHDX_BAT_OFFSET_MASK))

typedef enum VHDXBlockState {
    VHDX_BLOCK_NOT_PRESENT = 0,
    VHDX_BLOCK_UNDEFINED = 1,
    VHDX_BLOCK_ZERO = 2,
    VHDX_BLOCK_UNMAPPED = 3,
    VHDX_BLOCK_UNMAPPED_DRAFT = 5,  /* as files of the 0.95 draft have it */
    VHDX_BLOCK_FULLY_PRESENT = 6,
    VHDX_BLOCK_PARTIALLY_PRESENT = 7,
} VHDXBlockState;

/* A BAT entry: its state, and the offset in bytes of the object it names. */
static inline uint64_t vhdx_bat_entry(VHDXBlockState state, uint64_t offset)
{
    return state | offset;
}

static inline VHDXBlockState vhdx_bat_state(uint64_t entry)
{
    return entry & VHDX_BAT_STATE_MASK;
}

static inline uint64_t vhdx_bat_offset(uint64_t entry)
{
    return entry & VHDX_BAT_OFFSET_MASK;
}

/* Numbers that follow from disk size, block size and logical sector size. */
typedef struct VHDXGeometry {
    uint64_t disk_size;             /* bytes */
    uint32_t block_size;            /* bytes */
    unsigned block_bits;            /* log2 of block_size */
    unsigned chunk_bits;            /* log2 of the chunk ratio */
    uint64_t blocks;                /* payload blocks */
    uint64_t chunks;                /* sector bitmap blocks of a child */
    uint64_t bat_entries;           /* payload and sector bitmap entries */
} VHDXGeometry;

/* Work out @geo from valid @params. */
void vhdx_geometry_init(VHDXGeometry *geo, const VHDXParams *params);

/* How many bytes a region for the BAT needs, which is never empty. */
uint32_t vhdx_bat_region_length(const VHDXGeometry *geo);

/* How many bytes of the disk payload block @block holds. */
static inline uint64_t vhdx_block_bytes(const VHDXGeometry *geo, uint64_t block)
{
    return block == geo->blocks - 1 ?
           geo->disk_size - (block << geo->block_bits) : geo->block_size;
}

/* Where in its payload block offset @offset of the disk is. */
static inline uint64_t vhdx_in_block(const VHDXGeometry *geo, uint64_t offset)
{
    return offset & (geo->block_size - 1);
}

/* Bytes from @offset to the end of its block, but no more than @bytes. */
static inline uint64_t vhdx_to_block_end(const VHDXGeometry *geo,
                                         uint64_t offset, uint64_t bytes)
{
    return MIN(bytes, geo->block_size - vhdx_in_block(geo, offset));
}

/* Whether [@offset, @offset + @bytes) is all that the disk has of a block. */
static inline bool vhdx_is_whole_block(const VHDXGeometry *geo, uint64_t offset,
                                       uint64_t bytes)
{
    return !vhdx_in_block(geo, offset) &&
           bytes == vhdx_block_bytes(geo, offset >> geo->block_bits);
}

/* BAT entries of a chunk: those of its payload blocks and its bitmap block */
static inline uint64_t vhdx_bat_stride(const VHDXGeometry *geo)
{
    return (1ULL << geo->chunk_bits) + 1;
}

/* The BAT index of payload block @block. */
static inline uint64_t vhdx_bat_index(const VHDXGeometry *geo, uint64_t block)
{
    return block + (block >> geo->chunk_bits);
}

/* The BAT index of the sector bitmap block of chunk @chunk. */
static inline uint64_t vhdx_bat_bitmap_index(const VHDXGeometry *geo,
                                             uint64_t chunk)
{
    return ((chunk + 1) << geo->chunk_bits) + chunk;
}

/*
 * Whether BAT entry @index is that of a sector bitmap block; if not, @block
 * gets the number of its payload block.
 */
bool vhdx_bat_index_is_bitmap(const VHDXGeometry *geo, uint64_t index,
                              uint64_t *block);

/* The BAT index behind that of the last payload block. */
static inline uint64_t vhdx_bat_payload_end(const VHDXGeometry *geo)
{
    return geo->blocks ? vhdx_bat_index(geo, geo->blocks - 1) + 1 : 0;
}

/*
 * Whether BAT entry @index, from vhdx_bat_payload_end() on, means nothing: a
 * child has entries for all of its last chunk, but of those behind the last
 * payload block only that of the sector bitmap block counts.
 */
static inline bool vhdx_bat_index_is_behind(const VHDXGeometry *geo,
                                            uint64_t index)
{
    return index >= vhdx_bat_payload_end(geo) && index != geo->bat_entries - 1;
}

/*
 * What raw entry @entry of an image without parent should be, where that is
 * certain if its state is right: without reserved bits, without an offset in a
 * state that has none, not in the draft's state; zero where it is that of a
 * sector bitmap block (@bitmap).
 */
uint64_t vhdx_bat_entry_normalize(uint64_t entry, bool bitmap);

/*
 * Fill @buf with @count BAT entries from @index on, as they stand in a new
 * image: payload block n in @state and, when @first_block is not 0, at
 * @first_block + n * block size; sector bitmap entries, and all behind the
 * last entry, zero.
 */
void vhdx_bat_fill(const VHDXGeometry *geo, uint64_t index, uint64_t count,
                   VHDXBlockState state, uint64_t first_block, uint8_t *buf);

#endif
