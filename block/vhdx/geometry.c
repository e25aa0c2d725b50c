/*
 * VHDX: blocks and BAT entries by number
 *
 * Pure: arithmetic on what disk size, block size and sector size make of a
 * disk, and on single entries.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "block/vhdx/geometry.h"

void vhdx_geometry_init(VHDXGeometry *geo, const VHDXParams *params)
{
    /* A bitmap block has a bit for each of 2^23 sectors. */
    uint64_t chunk_bytes = (uint64_t)params->logical_sector << 23;

    *geo = (VHDXGeometry) {
        .disk_size = params->disk_size,
        .block_size = params->block_size,
        .block_bits = ctz32(params->block_size),
        .chunk_bits = ctz64(chunk_bytes / params->block_size),
        .blocks = DIV_ROUND_UP(params->disk_size, params->block_size),
    };
    geo->chunks = DIV_ROUND_UP(geo->blocks, 1ULL << geo->chunk_bits);
    if (params->has_parent) {
        geo->bat_entries = geo->chunks << geo->chunk_bits;
        geo->bat_entries += geo->chunks;
    } else if (geo->blocks) {
        geo->bat_entries = vhdx_bat_index(geo, geo->blocks - 1) + 1;
    }
}

uint32_t vhdx_bat_region_length(const VHDXGeometry *geo)
{
    return ROUND_UP(MAX(geo->bat_entries, 1) * VHDX_BAT_ENTRY_SIZE, VHDX_MIB);
}

bool vhdx_bat_index_is_bitmap(const VHDXGeometry *geo, uint64_t index,
                              uint64_t *block)
{
    uint64_t stride = vhdx_bat_stride(geo);
    uint64_t chunk = index / stride;

    if (index % stride == stride - 1) {
        return true;
    }
    *block = index - chunk;
    return false;
}

void vhdx_bat_fill(const VHDXGeometry *geo, uint64_t index, uint64_t count,
                   VHDXBlockState state, uint64_t first_block, uint8_t *buf)
{
    for (uint64_t i = 0; i < count; i++) {
        uint64_t entry = 0, block;

        if (!vhdx_bat_index_is_bitmap(geo, index + i, &block) &&
            block < geo->blocks) {
            entry = vhdx_bat_entry(state, first_block ? first_block +
                                   (block << geo->block_bits) : 0);
        }
        stq_le_p(buf + i * VHDX_BAT_ENTRY_SIZE, entry);
    }
}

uint64_t vhdx_bat_entry_normalize(uint64_t entry, bool bitmap)
{
    uint64_t offset = vhdx_bat_offset(entry);

    if (bitmap) {
        return 0;
    }
    switch (vhdx_bat_state(entry)) {
    case VHDX_BLOCK_NOT_PRESENT:
    case VHDX_BLOCK_ZERO:
        return vhdx_bat_entry(vhdx_bat_state(entry), 0);
    case VHDX_BLOCK_UNMAPPED_DRAFT:
        return vhdx_bat_entry(VHDX_BLOCK_UNMAPPED, offset);
    default:
        return vhdx_bat_entry(vhdx_bat_state(entry), offset);
    }
}
