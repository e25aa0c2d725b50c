/*
 * storage_file_vhdx.h: reader of VHDX images
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

/**
 * virStorageFileVHDXRead:
 * @offset: where to read in the file, bytes
 * @buf: filled with what is there
 * @len: how much to read, bytes
 * @opaque: what virStorageFileVHDXOpen was given
 *
 * Returns the number of bytes read, which is less than @len only at the end
 * of the file, or -1 with an error reported.
 */
typedef ssize_t (*virStorageFileVHDXRead)(unsigned long long offset,
                                          char *buf,
                                          size_t len,
                                          void *opaque);

typedef struct _virStorageFileVHDX virStorageFileVHDX;
struct _virStorageFileVHDX {
    unsigned long long capacity;    /* bytes; may be 0 */
    unsigned int blockSize;         /* bytes */
    unsigned int sectorSize;        /* logical, bytes */
    bool fixed;                     /* all blocks have their place */
    char **parents;                 /* where the parent may be, in the order
                                     * in which it is looked for; NULL if
                                     * there is none */
};

int
virStorageFileVHDXOpen(const char *path,
                       virStorageFileVHDXRead readFunc,
                       void *opaque,
                       virStorageFileVHDX **image);

bool
virStorageFileVHDXHasHeader(virStorageFileVHDXRead readFunc,
                            void *opaque);

void
virStorageFileVHDXFree(virStorageFileVHDX *image);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virStorageFileVHDX, virStorageFileVHDXFree);
