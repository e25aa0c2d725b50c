/*
 * VHDX: from the parent locator to a file
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_PATH_H
#define BLOCK_VHDX_PARENT_PATH_H

#include "block/vhdx/locator.h"

/*
 * Find the parent of the image @child, a file name that may be relative, by the
 * paths in its locator @loc (sections 2.6.2.6.1 to 2.6.2.6.3).  What is found
 * is a regular file, never @child itself, and never in /dev, /proc or /sys.
 * Nothing is opened but folders, where letter case has to be looked at.
 *
 * Returns its name to be freed with g_free(), in the form that QEMU takes for a
 * backing file of @child: absolute, or relative to the folder of @child; never
 * a name with a protocol, never PATH_MAX bytes or more.  @guessed tells that no
 * path of @loc leads there: a file in the folder of @child just has the name.
 * For a @child that is no local file (NULL, or a name with a protocol) this is
 * what relative_path says, unseen.
 *
 * Returns NULL with @errp set where there is none, where two names fit but for
 * letter case, or where its name would be too long.
 */
char *vhdx_parent_path_find(const VHDXLocator *loc, const char *child,
                            bool *guessed, Error **errp);

/*
 * Why @path, which exists, can't be a parent's, or NULL: it leads into /dev,
 * /proc or /sys, as it is written or with symbolic links followed, or is no
 * path that the system can follow.
 */
const char *vhdx_parent_path_refused(const char *path);

/* Whether both names, which may be NULL, are there and are one file's. */
bool vhdx_parent_path_is_same(const char *a, const char *b);

#endif
