/*
 * VHDX: what the file of a parent tells that is not open
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_FILE_H
#define BLOCK_VHDX_PARENT_FILE_H

#include "block/vhdx/format.h"

/*
 * Read the file @path, which is to be the parent of an image with sectors of
 * @logical_sector bytes, and get its DataWriteGuid and Virtual Disk ID.  It is
 * read as it is: what another program has in memory may be newer.  Returns 0,
 * or -errno with @errp set: it is no regular file, no VHDX image, damaged, or
 * has other sectors.
 */
int vhdx_parent_file_read(const char *path, uint32_t logical_sector,
                          VHDXGuid *data_write_guid, VHDXGuid *disk_id,
                          Error **errp);

#endif
