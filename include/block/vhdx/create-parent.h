/*
 * VHDX: the parent of a new image
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_CREATE_PARENT_H
#define BLOCK_VHDX_CREATE_PARENT_H

#include "block/vhdx/options.h"

/* The name of file @bs as a path, NULL if it is none; freed with g_free(). */
char *coroutine_fn vhdx_create_file_path(BlockDriverState *bs);

/*
 * Look at the parent, if one is asked for, of an image whose file is called
 * @child: complete @opts by it, and give what the child has beside the items
 * that every image has, its Parent Locator and what the parent has of the
 * virtual disk, as VHDXItemData in the array @items.  A parent that is
 * not there is an error, unless @opts tells that it need not be: then the child
 * is linked to none.  Returns 0 or -errno with @errp set.
 */
int coroutine_fn
vhdx_create_ask_parent(const char *child, VHDXCreateOptions *opts,
                       GArray **items, Error **errp);

#endif
