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
 * @child: complete @opts by it, and give its locator, to be freed with
 * g_free(), and the locator's @length in bytes.  Returns 0 or -errno with @errp
 * set.
 */
int coroutine_fn
vhdx_create_ask_parent(const char *child, VHDXCreateOptions *opts,
                       uint8_t **locator, uint32_t *length, Error **errp);

#endif
