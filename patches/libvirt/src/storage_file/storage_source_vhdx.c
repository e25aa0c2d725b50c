/*
 * storage_source_vhdx.c: VHDX images as storage sources
 *
 * What libvirt wants to know of an image is not among the first bytes that all
 * formats are probed with, so that these functions come after the probe.
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

#include <config.h>

#include <unistd.h>

#include "internal.h"
#include "storage_file_backend.h"
#include "storage_file_vhdx.h"
#include "storage_source.h"
#include "storage_source_vhdx.h"
#include "virerror.h"
#include "virlog.h"

#define VIR_FROM_THIS VIR_FROM_STORAGE

VIR_LOG_INIT("storage_source_vhdx");

typedef struct _virStorageSourceVHDXFile virStorageSourceVHDXFile;
struct _virStorageSourceVHDXFile {
    virStorageSource *src;
    int fd;                         /* -1 if src is to be read */
};


static ssize_t
virStorageSourceVHDXReadFD(virStorageSourceVHDXFile *file,
                           unsigned long long offset,
                           char *buf,
                           size_t len)
{
    size_t got = 0;

    while (got < len) {
        ssize_t rc = pread(file->fd, buf + got, len - got, offset + got);

        if (rc < 0 && errno == EINTR)
            continue;

        if (rc < 0) {
            virReportSystemError(errno, _("cannot read '%1$s' at offset %2$llu"),
                                 file->src->path, offset + got);
            return -1;
        }

        if (rc == 0)
            break;

        got += rc;
    }

    return got;
}


static ssize_t
virStorageSourceVHDXRead(unsigned long long offset,
                         char *buf,
                         size_t len,
                         void *opaque)
{
    virStorageSourceVHDXFile *file = opaque;
    g_autofree char *data = NULL;
    ssize_t got;

    if (file->fd >= 0)
        return virStorageSourceVHDXReadFD(file, offset, buf, len);

    if ((size_t) offset != offset) {
        virReportSystemError(EOVERFLOW, _("cannot read '%1$s' at offset %2$llu"),
                             file->src->path, offset);
        return -1;
    }

    if ((got = virStorageSourceRead(file->src, offset, len, &data)) < 0) {
        if (got == -2) {
            virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                           _("reading the VHDX image '%1$s' is not supported"),
                           file->src->path);
        }
        return -1;
    }

    got = MIN(got, len);
    memcpy(buf, data, got);
    return got;
}


static int
virStorageSourceVHDXOpen(virStorageSource *src,
                         int fd,
                         virStorageSource *meta,
                         virStorageFileVHDX **image)
{
    virStorageSourceVHDXFile file = { .src = src, .fd = fd };

    meta->capacity = 0;

    if (virStorageFileVHDXOpen(src->path, virStorageSourceVHDXRead, &file, image) < 0)
        return -1;

    meta->capacity = (*image)->capacity;
    meta->clusterSize = (*image)->blockSize;
    meta->logicalSectorSize = (*image)->sectorSize;
    meta->fixed = (*image)->fixed;
    return 0;
}


/**
 * virStorageSourceVHDXUpdate:
 * @src: VHDX image
 * @fd: where to read it, or -1 if @src is initialized and can be read itself
 *
 * Update capacity, cluster size, sector size and kind of @src from the image.
 *
 * Returns 0 on success, -1 with an error reported.
 */
int
virStorageSourceVHDXUpdate(virStorageSource *src,
                           int fd)
{
    g_autoptr(virStorageFileVHDX) image = NULL;

    return virStorageSourceVHDXOpen(src, fd, src, &image);
}


/* Whether backingStoreRaw of @meta names a regular file other than the image
 * itself, for the user who reads @src. */
static bool
virStorageSourceVHDXHasParent(virStorageSource *src,
                              int fd,
                              virStorageSource *meta)
{
    virStorageDriverData *drv = src->drv;
    g_autoptr(virStorageSource) parent = NULL;
    struct stat own = { 0 };
    struct stat st;
    bool ret;

    if (virStorageSourceNewFromBacking(meta, &parent) < 0 ||
        virStorageSourceInitAs(parent,
                               drv ? drv->uid : (uid_t) -1,
                               drv ? drv->gid : (gid_t) -1) < 0) {
        virResetLastError();
        return false;
    }

    ret = virStorageSourceStat(parent, &st) == 0 && S_ISREG(st.st_mode) &&
          (fd >= 0 ? fstat(fd, &own) : virStorageSourceStat(src, &own)) == 0 &&
          (st.st_dev != own.st_dev || st.st_ino != own.st_ino);
    virStorageSourceDeinit(parent);
    return ret;
}


/**
 * virStorageSourceVHDXProbe:
 * @src: image to read
 * @fd: where to read it, or -1 if @src is initialized and can be read itself
 * @meta: filled with the metadata of @src; has its format and path
 *
 * Complete the metadata if the format is vhdx. The parent is the first of the
 * places that the image names where there is a regular file, not the image itself. If there is none, it is
 * the first place, so that an error about the chain names a file.
 *
 * Returns 0 on success, -1 with an error reported.
 */
int
virStorageSourceVHDXProbe(virStorageSource *src,
                          int fd,
                          virStorageSource *meta)
{
    g_autoptr(virStorageFileVHDX) image = NULL;
    char **path;

    if (meta->format != VIR_STORAGE_FILE_VHDX)
        return 0;

    if (virStorageSourceVHDXOpen(src, fd, meta, &image) < 0)
        return -1;

    if (!image->parents)
        return 0;

    meta->backingStoreRawFormat = VIR_STORAGE_FILE_VHDX;

    for (path = image->parents; *path; path++) {
        g_free(meta->backingStoreRaw);
        meta->backingStoreRaw = g_strdup(*path);

        if (virStorageSourceVHDXHasParent(src, fd, meta))
            return 0;
    }

    g_free(meta->backingStoreRaw);
    meta->backingStoreRaw = g_strdup(image->parents[0]);
    return 0;
}


/**
 * virStorageSourceVHDXProbeAs:
 * @src: image that is not initialized, probed
 * @uid: user who reads it
 * @gid: group of the user
 *
 * Complete the metadata of @src as virStorageSourceVHDXProbe does.
 *
 * Returns 0 on success, -1 with an error reported.
 */
int
virStorageSourceVHDXProbeAs(virStorageSource *src,
                            uid_t uid,
                            gid_t gid)
{
    int rc;

    if (src->format != VIR_STORAGE_FILE_VHDX)
        return 0;

    if (virStorageSourceIsFD(src))
        return virStorageSourceVHDXProbe(src, src->fdtuple->fds[0], src);

    if (virStorageSourceInitAs(src, uid, gid) < 0)
        return -1;

    rc = virStorageSourceVHDXProbe(src, -1, src);
    virStorageSourceDeinit(src);
    return rc;
}


/**
 * virStorageSourceVHDXScan:
 * @meta: image in a pool, probed
 * @fd: where to read it
 *
 * As virStorageSourceVHDXProbe, but for the scan of a pool: a damaged image
 * has the capacity 0 there and fails nothing but the later looks at it. So that
 * it is not taken for a raw one and grown or cut as such, an image that has
 * lost its identifier is known by its header.
 */
void
virStorageSourceVHDXScan(virStorageSource *meta,
                         int fd)
{
    virStorageSourceVHDXFile file = { .src = meta, .fd = fd };

    if (meta->format == VIR_STORAGE_FILE_RAW && !meta->encryption) {
        if (virStorageFileVHDXHasHeader(virStorageSourceVHDXRead, &file))
            meta->format = VIR_STORAGE_FILE_VHDX;
        else
            virResetLastError();
    }

    if (virStorageSourceVHDXProbe(meta, fd, meta) < 0) {
        VIR_WARN("no size of volume '%s': %s", meta->path, virGetLastErrorMessage());
        virResetLastError();
    }
}
