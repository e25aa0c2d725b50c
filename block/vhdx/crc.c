/*
 * VHDX: CRC-32C, by QEMU's table
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/crc32c.h"
#include "block/vhdx/crc.h"

uint32_t vhdx_crc_continue(uint32_t crc, const uint8_t *buf, size_t bytes)
{
    /* The result of crc32c() is inverted: undo that. */
    return ~crc32c(crc, buf, bytes);
}
