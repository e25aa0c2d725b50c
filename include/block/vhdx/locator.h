/*
 * VHDX: the parent locator, section 2.6.2.6
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#ifndef BLOCK_VHDX_LOCATOR_H
#define BLOCK_VHDX_LOCATOR_H


/*
 * The path of the parent by the locator @buf of @bytes bytes, as
 * vhdx_text_decode() gives it.  Returns NULL with @errp set where the locator
 * is damaged; the message is a sentence's end.
 */
char *vhdx_locator_parent(const uint8_t *buf, uint32_t bytes, Error **errp);

#endif
