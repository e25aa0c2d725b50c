/*
 * VHDX: CRC-32C, by Intel's ISA-L, which has the processor do it
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include <isa-l/crc.h>
#include "block/vhdx/crc.h"

uint32_t vhdx_crc_continue(uint32_t crc, const uint8_t *buf, size_t bytes)
{
    while (bytes) {
        int n = MIN(bytes, 1 << 30);

        /* It only reads what is there. */
        crc = crc32_iscsi((unsigned char *)buf, n, crc);
        buf += n;
        bytes -= n;
    }
    return crc;
}
