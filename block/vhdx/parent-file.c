/*
 * VHDX: what the file of a parent tells that is not open
 *
 * Where the user gives a child another parent by name, nobody may open that as
 * a node: the graph is locked.  What the child has to know of it is in its
 * headers, which count without a replay, and in metadata that nobody changes.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "block/vhdx/parent-file.h"
#include "block/vhdx/parent-path.h"
#include "block/vhdx/tables.h"

/* Read @bytes bytes at @offset of the file @fd. */
static int file_read(int fd, uint64_t offset, size_t bytes, void *buf,
                     Error **errp)
{
    ssize_t n = pread(fd, buf, bytes, offset);

    if (n < 0) {
        error_setg_errno(errp, errno, "could not read it");
        return -EIO;
    }
    if (n < bytes) {
        error_setg(errp, "it ends before offset %" PRIu64, offset + bytes);
        return -EINVAL;
    }
    return 0;
}

static int header_read(int fd, VHDXHeader *header, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(VHDX_HEADER_SIZE);
    VHDXHeader headers[2];
    bool valid[2];
    int copy;

    for (int i = 0; i < 2; i++) {
        if (file_read(fd, VHDX_HEADER_OFFSET(i), VHDX_HEADER_SIZE, buf,
                      errp) < 0) {
            return -EINVAL;
        }
        valid[i] = vhdx_header_decode(buf, &headers[i]);
    }
    copy = vhdx_header_choose(headers, valid, errp);
    if (copy < 0) {
        return -EINVAL;
    }
    *header = headers[copy];
    return vhdx_header_check(header, errp);
}

/* Where the metadata region is, of a file with the header @header */
static int region_read(int fd, const VHDXHeader *header, VHDXRegion *metadata,
                       Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(VHDX_REGION_TABLE_SIZE);
    g_autofree VHDXRegion *regions = NULL;
    uint32_t count;
    VHDXRegion bat;

    for (int i = 0; i < 2; i++) {
        if (file_read(fd, VHDX_REGION_TABLE_OFFSET(i), VHDX_REGION_TABLE_SIZE,
                      buf, errp) < 0) {
            return -EINVAL;
        }
        if (vhdx_region_table_valid(buf)) {
            return vhdx_region_table_decode(buf, header->log_offset,
                                            header->log_length, &regions,
                                            &count, &bat, metadata, errp);
        }
    }
    error_setg(errp, "neither region table has a valid signature and checksum");
    return -EINVAL;
}

/* Get the item @guid, by name @what, of @bytes bytes. */
static int item_read(int fd, const VHDXRegion *metadata, const VHDXItem *items,
                     uint32_t count, const VHDXGuid *guid, const char *what,
                     size_t bytes, uint8_t *buf, Error **errp)
{
    const VHDXItem *item = vhdx_metadata_find(items, count, guid);

    if (!item || item->length != bytes) {
        error_setg(errp, "its metadata has no valid '%s'", what);
        return -EINVAL;
    }
    return file_read(fd, metadata->offset + item->offset, bytes, buf, errp);
}

static int metadata_read(int fd, const VHDXRegion *metadata, uint32_t *sector,
                         VHDXGuid *disk_id, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(VHDX_METADATA_TABLE_SIZE);
    g_autofree VHDXItem *items = NULL;
    uint8_t size[4], id[16];
    uint32_t count;

    if (file_read(fd, metadata->offset, VHDX_METADATA_TABLE_SIZE, buf,
                  errp) < 0 ||
        vhdx_metadata_table_decode(buf, metadata->length, &items, &count,
                                   errp) < 0 ||
        item_read(fd, metadata, items, count, &vhdx_item_logical_sector,
                  "Logical Sector Size", sizeof(size), size, errp) < 0 ||
        item_read(fd, metadata, items, count, &vhdx_item_disk_id,
                  "Virtual Disk ID", sizeof(id), id, errp) < 0) {
        return -EINVAL;
    }
    *sector = ldl_le_p(size);
    *disk_id = vhdx_guid_decode(id);
    return 0;
}

static int image_read(int fd, uint32_t logical_sector,
                      VHDXGuid *data_write_guid, VHDXGuid *disk_id,
                      Error **errp)
{
    uint8_t id[8];
    VHDXHeader header;
    VHDXRegion metadata;
    uint32_t sector;
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        error_setg(errp, "it is no regular file");
        return -EINVAL;
    }
    if (file_read(fd, 0, sizeof(id), id, errp) < 0) {
        return -EINVAL;
    }
    if (!vhdx_file_id_valid(id, sizeof(id))) {
        error_setg(errp, "it is not in VHDX format");
        return -EINVAL;
    }
    if (header_read(fd, &header, errp) < 0 ||
        region_read(fd, &header, &metadata, errp) < 0 ||
        metadata_read(fd, &metadata, &sector, disk_id, errp) < 0) {
        return -EINVAL;
    }
    if (sector != logical_sector) {
        error_setg(errp, "its logical sector size is %" PRIu32 ", and that of "
                   "the child is %" PRIu32, sector, logical_sector);
        return -EINVAL;
    }
    *data_write_guid = header.data_write_guid;
    return 0;
}

int vhdx_parent_file_read(const char *path, uint32_t logical_sector,
                          VHDXGuid *data_write_guid, VHDXGuid *disk_id,
                          Error **errp)
{
    ERRP_GUARD();
    const char *refused;
    int fd, ret;

    if (access(path, F_OK) < 0) {
        error_setg_errno(errp, errno, "Could not open '%s'", path);
        return -ENOENT;
    }
    refused = vhdx_parent_path_refused(path);
    if (refused) {
        error_setg(errp, "'%s' can't be a parent: %s", path, refused);
        return -EINVAL;
    }
    /* A FIFO must not keep us. */
    fd = qemu_open(path, O_RDONLY | O_NONBLOCK, errp);
    if (fd < 0) {
        return -ENOENT;
    }
    ret = image_read(fd, logical_sector, data_write_guid, disk_id, errp);
    qemu_close(fd);
    if (ret < 0) {
        error_prepend(errp, "'%s' can't be a parent: ", path);
    }
    return ret;
}
