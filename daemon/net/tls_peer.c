/*
 * Is the peer who it should be: its certificate during the handshake, and its names after it.
 */
#include "net/tls_private.h"

#include "base/util.h"

#include <arpa/inet.h>
#include <gnutls/x509-ext.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>

unsigned tls_parse_address(const char *text, uint8_t ret_bytes[static 16])
{
    if (inet_pton(AF_INET, text, ret_bytes) == 1)
        return 4;
    return inet_pton(AF_INET6, text, ret_bytes) == 1 ? 16 : 0;
}

/* ---- The certificate ---- */

/* What GnuTLS finds, the most telling first: a certificate can be wrong in several ways. */
static const struct {
    unsigned status;
    gnutls_alert_description_t alert;
    const char *text;
} faults[] = {
    {GNUTLS_CERT_SIGNER_NOT_FOUND, GNUTLS_A_UNKNOWN_CA,
     "is not trusted: no authority that is known here has signed it"},
    {GNUTLS_CERT_SIGNER_NOT_CA, GNUTLS_A_UNKNOWN_CA,
     "is not trusted: what has signed it is no authority"},
    {GNUTLS_CERT_REVOKED, GNUTLS_A_CERTIFICATE_REVOKED, "was revoked"},
    {GNUTLS_CERT_EXPIRED, GNUTLS_A_CERTIFICATE_EXPIRED, "has expired, or its authority's has"},
    {GNUTLS_CERT_NOT_ACTIVATED, GNUTLS_A_CERTIFICATE_EXPIRED, "is not valid yet"},
    {GNUTLS_CERT_PURPOSE_MISMATCH, GNUTLS_A_UNSUPPORTED_CERTIFICATE,
     "is for another purpose (extended key usage)"},
    {GNUTLS_CERT_UNEXPECTED_OWNER, GNUTLS_A_BAD_CERTIFICATE, "is for another name"},
    {GNUTLS_CERT_INSECURE_ALGORITHM, GNUTLS_A_BAD_CERTIFICATE,
     "is signed by a method that is too weak"},
    {0, GNUTLS_A_BAD_CERTIFICATE, "is not good"},
};

static gnutls_x509_crt_t certificate_unref(gnutls_x509_crt_t certificate)
{
    if (certificate)
        gnutls_x509_crt_deinit(certificate);
    return NULL;
}

static void certificate_unref_pointer(gnutls_x509_crt_t *certificate)
{
    certificate_unref(*certificate);
}

/* The peer's own certificate, for the caller to free; NULL if it has shown none, or without memory.
 */
static gnutls_x509_crt_t peer_certificate(gnutls_session_t session)
{
    unsigned count = 0;
    const gnutls_datum_t *list = gnutls_certificate_get_peers(session, &count);
    gnutls_x509_crt_t certificate;

    if (!list || count == 0 || gnutls_x509_crt_init(&certificate) < 0)
        return NULL;
    if (gnutls_x509_crt_import(certificate, list, GNUTLS_X509_FMT_DER) < 0)
        return certificate_unref(certificate);
    return certificate;
}

static void describe_fault(struct tls *tls, unsigned status)
{
    struct tls_handshake *handshake = tls->handshake;
    _cleanup_(certificate_unref_pointer) gnutls_x509_crt_t certificate =
        peer_certificate(tls->session);
    gnutls_datum_t subject = {0};
    unsigned i = 0;

    while (i < ELEMENTSOF(faults) - 1 && !(status & faults[i].status))
        i++;
    if (certificate)
        (void)gnutls_x509_crt_get_dn3(certificate, &subject, 0);
    handshake->outcome = TLS_CERTIFICATE;
    handshake->alert = faults[i].alert;
    (void)snprintf(handshake->detail, sizeof(handshake->detail),
                   "the %s's certificate (%.100s) %s%s%.64s%s", tls->client ? "server" : "client",
                   subject.size > 0 ? (const char *)subject.data : "without a subject",
                   faults[i].text,
                   faults[i].status == GNUTLS_CERT_UNEXPECTED_OWNER ? " than \"" : "",
                   faults[i].status == GNUTLS_CERT_UNEXPECTED_OWNER ? handshake->server_name : "",
                   faults[i].status == GNUTLS_CERT_UNEXPECTED_OWNER ? "\"" : "");
    gnutls_free(subject.data);
}

/* What a certificate must be good for. The number of elements. */
static unsigned wanted(const struct tls *tls, gnutls_typed_vdata_st data[static 2],
                       uint8_t address[static 16])
{
    const char *purpose = tls->client ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
    const char *name = tls->handshake->server_name;
    unsigned size;

    data[0] = (gnutls_typed_vdata_st){.type = GNUTLS_DT_KEY_PURPOSE_OID,
                                      .data = (unsigned char *)purpose};
    if (!tls->client)
        return 1;
    size = tls_parse_address(name, address);
    data[1] = size > 0 ? (gnutls_typed_vdata_st){GNUTLS_DT_IP_ADDRESS, address, size}
                       : (gnutls_typed_vdata_st){GNUTLS_DT_DNS_HOSTNAME, (unsigned char *)name, 0};
    return 2;
}

int tls_peer_verify(gnutls_session_t session)
{
    struct tls *tls = gnutls_session_get_ptr(session);
    gnutls_typed_vdata_st data[2];
    uint8_t address[16];
    unsigned status = 0;
    unsigned count = 0;
    int r;

    if (tls->handshake->insecure)
        return 0;
    /* Where a client must show one GnuTLS sees to it. */
    if (!tls->client && (!gnutls_certificate_get_peers(session, &count) || count == 0))
        return 0;
    count = wanted(tls, data, address);
    r = gnutls_certificate_verify_peers(session, data, count, &status);
    if (r == GNUTLS_E_MEMORY_ERROR)
        return r;
    if (r < 0 || status != 0) {
        describe_fault(tls, r < 0 ? 0 : status);
        return GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
    }
    tls->verified = true;
    return 0;
}

/* ---- Its names ---- */

/* A name in a certificate; the bytes, which may be any, are borrowed from it. */
struct name {
    unsigned kind; /* GNUTLS_SAN_... */
    gnutls_datum_t value;
};

/* Looks at a name; true: enough seen. */
typedef bool (*name_fn)(const struct name *name, void *context);

/* Of the kinds that a name can be compared with. */
static bool kind_counts(unsigned kind)
{
    return kind == GNUTLS_SAN_DNSNAME || kind == GNUTLS_SAN_RFC822NAME || kind == GNUTLS_SAN_URI ||
           kind == GNUTLS_SAN_IPADDRESS;
}

/*
 * The certificate's alternative names. *ret_any: it has some, or some that could not be read, and
 * those are no reason to believe another.
 */
static bool each_alternative(gnutls_x509_crt_t certificate, name_fn each, void *context,
                             bool *ret_any)
{
    gnutls_subject_alt_names_t names;
    gnutls_datum_t extension = {0};
    struct name name;
    bool found = false;
    int r = gnutls_x509_crt_get_extension_by_oid2(certificate, GNUTLS_X509EXT_OID_SAN, 0,
                                                  &extension, NULL);

    *ret_any = r != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE;
    if (r < 0)
        return false;
    if (gnutls_subject_alt_names_init(&names) >= 0) {
        *ret_any = gnutls_x509_ext_import_subject_alt_names(&extension, names, 0) < 0;
        for (unsigned i = 0;
             !found && gnutls_subject_alt_names_get(names, i, &name.kind, &name.value, NULL) >= 0;
             i++) {
            *ret_any = *ret_any || kind_counts(name.kind);
            found = kind_counts(name.kind) && each(&name, context);
        }
        gnutls_subject_alt_names_deinit(names);
    }
    gnutls_free(extension.data);
    return found;
}

/* Calls `each` for the peer's names until it returns true, and returns that. */
static bool each_name(const struct tls *tls, name_fn each, void *context)
{
    _cleanup_(certificate_unref_pointer) gnutls_x509_crt_t certificate = NULL;
    char common[256];
    size_t size = sizeof(common);
    struct name name = {GNUTLS_SAN_OTHERNAME, {(unsigned char *)common, 0}};
    bool any;

    if (tls->verified)
        certificate = peer_certificate(tls->session);
    if (!certificate)
        return false;
    if (each_alternative(certificate, each, context, &any))
        return true;
    if (any || gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, common,
                                             &size) < 0)
        return false;
    name.value.size = (unsigned)size;
    return each(&name, context);
}

static bool name_is(const struct name *name, void *context)
{
    const char *text = context;
    const char *value = (const char *)name->value.data;
    size_t size = name->value.size;
    uint8_t address[16];
    const char *at;

    if (name->kind == GNUTLS_SAN_IPADDRESS)
        return size > 0 && tls_parse_address(text, address) == size &&
               memcmp(address, value, size) == 0;
    if (size == 0 || strlen(text) != size)
        return false;
    if (name->kind == GNUTLS_SAN_DNSNAME)
        return strncasecmp(text, value, size) == 0;
    at = name->kind == GNUTLS_SAN_RFC822NAME ? memrchr(value, '@', size) : NULL;
    if (at) {
        size_t local = (size_t)(at - value);

        return memcmp(text, value, local) == 0 && strncasecmp(text + local, at, size - local) == 0;
    }
    return memcmp(text, value, size) == 0;
}

static bool name_keep(const struct name *name, void *context)
{
    struct tls *tls = context;
    const char *value = (const char *)name->value.data;
    char address[INET6_ADDRSTRLEN];

    if (name->kind == GNUTLS_SAN_IPADDRESS) {
        int family = name->value.size == 4 ? AF_INET : AF_INET6;

        if ((name->value.size != 4 && name->value.size != 16) ||
            !inet_ntop(family, value, address, sizeof(address)))
            return false;
        tls->peer_name = strdup(address);
        return true;
    }
    /* One with a NUL in it would be taken for another. */
    if (name->value.size == 0 || memchr(value, '\0', name->value.size))
        return false;
    tls->peer_name = strndup(value, name->value.size);
    return true;
}

void tls_peer_find_name(struct tls *tls)
{
    (void)each_name(tls, name_keep, tls);
}

bool tls_peer_is(const struct transport *transport, const char *name)
{
    const struct tls *tls = container_of(transport, struct tls, transport);

    return each_name(tls, name_is, (void *)name);
}

const char *tls_peer_name(const struct transport *transport)
{
    const struct tls *tls = container_of(transport, struct tls, transport);

    return tls->peer_name;
}
