/*
 * VHDX: CRC-32C
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CRC_H
#define BLOCK_VHDX_CRC_H

/*
 * Let the register @crc of CRC-32C go over @bytes bytes at @buf.  Returns what
 * it is then, as it stands: nothing is inverted, so that pieces can follow one
 * another.
 */
uint32_t vhdx_crc_continue(uint32_t crc, const uint8_t *buf, size_t bytes);

#endif
