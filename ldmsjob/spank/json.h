/*
 * Writing one JSON object into a buffer of fixed size, and checking somebody else's.
 *
 * Functions are static and included by ldmsjob_notifier.c: a plugin that defines no global
 * names but the ones that Slurm asks for cannot collide with those of slurmstepd.
 */
#ifndef LDMSJOB_JSON_H
#define LDMSJOB_JSON_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD, for bytes that are no UTF-8 */
#define DEEPEST 32                 /* nesting of objects that are taken from users */

struct json {
	char *text; /* always ends with a NUL */
	size_t size;
	size_t used;
	bool overflow; /* something did not fit; what is there is no JSON */
};

static void json_begin(struct json *json, char *buffer, size_t size)
{
	json->text = buffer;
	json->size = size;
	json->used = 0;
	json->overflow = false;
	buffer[0] = '\0';
}

static void json_raw(struct json *json, const char *bytes, size_t length)
{
	if (json->overflow || length >= json->size - json->used) {
		json->overflow = true;
		return;
	}
	memcpy(json->text + json->used, bytes, length);
	json->used += length;
	json->text[json->used] = '\0';
}

static void json_text(struct json *json, const char *text)
{
	json_raw(json, text, strlen(text));
}

static void json_key(struct json *json, const char *key)
{
	if (json->used > 0 && json->text[json->used - 1] != '{')
		json_text(json, ",");
	json_text(json, "\"");
	json_text(json, key);
	json_text(json, "\":");
}

static void json_number(struct json *json, const char *key, int64_t value)
{
	char digits[24];

	json_key(json, key);
	snprintf(digits, sizeof(digits), "%" PRId64, value);
	json_text(json, digits);
}

static void json_object(struct json *json, const char *key)
{
	json_key(json, key);
	json_text(json, "{");
}

/*
 * The number of bytes of the UTF-8 character at `at`; sets `valid` to whether it is one. Of what is
 * none, the longest beginning of a character counts as one, as is usual.
 */
static size_t character_length(const unsigned char *at, bool *valid)
{
	size_t length = *at < 0x80 ? 1 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : 4;
	unsigned char lowest = 0x80, highest = 0xbf;

	*valid = *at < 0x80 || (*at >= 0xc2 && *at <= 0xf4);
	if (!*valid)
		return 1;
	if (*at == 0xe0)
		lowest = 0xa0; /* else a longer form than needed */
	else if (*at == 0xed)
		highest = 0x9f; /* else half of a surrogate pair */
	else if (*at == 0xf0)
		lowest = 0x90;
	else if (*at == 0xf4)
		highest = 0x8f; /* else beyond Unicode */
	for (size_t i = 1; i < length; i++) {
		if (at[i] < lowest || at[i] > highest) {
			*valid = false;
			return i;
		}
		lowest = 0x80;
		highest = 0xbf;
	}
	return length;
}

/*
 * A string, of which so many characters are written as fit into `most` bytes once they are escaped:
 * nothing that a user writes can make a line too long.
 */
static void json_string(struct json *json, const char *key, const char *value, size_t most)
{
	const unsigned char *at = (const unsigned char *)value;
	char escape[8];
	bool valid;

	json_key(json, key);
	json_text(json, "\"");
	while (*at != '\0') {
		size_t length = character_length(at, &valid);
		const char *written = (const char *)at;
		size_t written_length = length;

		if (!valid) {
			written = REPLACEMENT;
			written_length = strlen(REPLACEMENT);
		} else if (*at == '"' || *at == '\\') {
			written_length = (size_t)snprintf(escape, sizeof(escape), "\\%c", *at);
			written = escape;
		} else if (*at < 0x20) {
			written_length = (size_t)snprintf(escape, sizeof(escape), "\\u%04x", *at);
			written = escape;
		}
		if (written_length > most)
			break;
		json_raw(json, written, written_length);
		most -= written_length;
		at += length;
	}
	json_text(json, "\"");
}

/* -- checking: each function gives the end of what it found at `at`, or NULL ------------------- */

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

static const char *skip_digits(const char *at)
{
	size_t length = strspn(at, "0123456789");

	return length > 0 ? at + length : NULL;
}

static const char *skip_number(const char *at)
{
	at += *at == '-';
	at = *at == '0' ? at + 1 : skip_digits(at);
	if (at != NULL && *at == '.')
		at = skip_digits(at + 1);
	if (at != NULL && (*at == 'e' || *at == 'E')) {
		at++;
		at = skip_digits(at + (*at == '+' || *at == '-'));
	}
	return at;
}

static bool hexadecimal(const char *at, unsigned int *value)
{
	char digits[5] = "";

	memcpy(digits, at, strnlen(at, 4));
	return strspn(digits, "0123456789abcdefABCDEF") == 4 && sscanf(digits, "%x", value) == 1;
}

/* What follows a backslash. Halves of surrogate pairs are no text: readers refuse them. */
static const char *skip_escape(const char *at)
{
	unsigned int first, second;

	if (*at != 'u')
		return *at != '\0' && strchr("\"\\/bfnrt", *at) != NULL ? at + 1 : NULL;
	if (!hexadecimal(at + 1, &first))
		return NULL;
	at += 5;
	if (first < 0xd800 || first > 0xdfff)
		return at;
	if (first > 0xdbff || at[0] != '\\' || at[1] != 'u' || !hexadecimal(at + 2, &second))
		return NULL;
	return second >= 0xdc00 && second <= 0xdfff ? at + 6 : NULL;
}

static const char *skip_string(const char *at)
{
	bool valid;

	if (*at++ != '"')
		return NULL;
	while (at != NULL && *at != '"') {
		if ((unsigned char)*at < 0x20)
			return NULL; /* the end of the text, too */
		if (*at == '\\') {
			at = skip_escape(at + 1);
		} else {
			at += character_length((const unsigned char *)at, &valid);
			if (!valid)
				return NULL;
		}
	}
	return at != NULL ? at + 1 : NULL;
}

static const char *skip_value(const char *at, int depth);

/* An object or an array, whose members are separated by commas. */
static const char *skip_members(const char *at, bool named, int depth)
{
	char end = named ? '}' : ']';

	at = skip_space(at + 1);
	if (*at == end)
		return at + 1;
	for (;;) {
		if (named) {
			at = skip_string(at);
			at = at != NULL ? skip_space(at) : NULL;
			if (at == NULL || *at++ != ':')
				return NULL;
		}
		at = skip_value(at, depth);
		if (at == NULL || (*at != ',' && *at != end))
			return NULL;
		if (*at++ == end)
			return at;
		at = skip_space(at);
	}
}

/* A value with the space around it. */
static const char *skip_value(const char *at, int depth)
{
	at = skip_space(at);
	if (depth <= 0)
		return NULL;
	if (*at == '{' || *at == '[')
		at = skip_members(at, *at == '{', depth - 1);
	else if (*at == '"')
		at = skip_string(at);
	else if (strncmp(at, "true", 4) == 0 || strncmp(at, "null", 4) == 0)
		at += 4;
	else if (strncmp(at, "false", 5) == 0)
		at += 5;
	else
		at = skip_number(at);
	return at != NULL ? skip_space(at) : NULL;
}

/* Whether the text is one JSON object and nothing else. */
static bool is_object(const char *text)
{
	const char *at = skip_space(text);

	at = *at == '{' ? skip_value(at, DEEPEST) : NULL;
	return at != NULL && *at == '\0';
}

#endif
