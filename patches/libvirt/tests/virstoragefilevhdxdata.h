/*
 * virstoragefilevhdxdata.h: the bytes of VHDX images that tests build
 *
 * This library is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * This library is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with this library.  If not, see
 * <http://www.gnu.org/licenses/>.
 */

#pragma once

#include "internal.h"

/* The low byte comes first. */
static inline void
put(unsigned char *bytes,
    unsigned int count,
    unsigned long long value)
{
    while (count--) {
        *bytes++ = value;
        value >>= 8;
    }
}


/* Make the CRC-32C of a header or region table right. */
static inline void
seal(unsigned char *bytes,
     size_t length)
{
    uint32_t crc = 0xffffffff;
    size_t i;
    size_t bit;

    put(bytes + 4, 4, 0);
    for (i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ 0x82f63b78 : crc >> 1;
    }
    put(bytes + 4, 4, ~crc);
}
