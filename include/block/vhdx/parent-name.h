/*
 * VHDX: from a file to the parent locator
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_PARENT_NAME_H
#define BLOCK_VHDX_PARENT_NAME_H

#include "block/vhdx/locator.h"

/*
 * Put the paths into @loc, which has none, by which the image @child, a file
 * name, is to find its parent @name, as a user gives it: relative to the folder
 * of @child, absolute, or with a protocol (section 2.6.2.6.3).  @path is the
 * parent's file name from here, or NULL where it is no local file or not known.
 * Returns 0, or -EINVAL with @errp set where no locator can tell that.
 */
int vhdx_parent_name_store(VHDXLocator *loc, const char *child,
                           const char *name, const char *path, Error **errp);

#endif
