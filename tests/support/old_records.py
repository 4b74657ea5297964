"""Records of keys as they were written before records were sealed: layout 1. Never to be made anew.

For each: the key, its successor's if it was rotated, and what stood in the store, in base 85. The clock stood at the
beginning of `keyguard.testing.ManualClock`.
"""

from __future__ import annotations

from base64 import b85decode

OLD, NEW = "an old pepper of some length", "a new pepper of some length"

_WRITTEN: dict[str, tuple[str, str | None, dict[str, str]]] = {
    "plain": (
        "kg_live_Ky9Pf34qY6Nb_3wWD25RQ4F5ZR3qa7yEeeby3abP3E2Zs36ke8H",
        None,
        {
            "key|Ky9Pf34qY6Nb": (
                "0RR910000000030|NsC0|NnoyM8Q91K!7*oELIM^#4O2hAA>c}R4#hsif2N6yEGhoB4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44"
                "Wo~vNIwEXoc4Z<gB4v1RX>w(AB06q$Y-}tdX=EZgB1?HWP-"
                "ZhUaalG_Vj?UeZDn*}WMOn+B075_bY)>}B075_ZeeX@B03^sY;|QKEFyGaXLBMtTOwg1U44BlB5q}LcW-iQb0RuhA~88QE;TVOF)"
                "%PLFfTGRB3&#ZZf|s7Vr6D;a%CbqZgp&IEFy1rZe?;JIwE0XZDk@XB5-"
                "VBZX!A&aB^=VEFy4nWoBu3B03^#XCf>ja%FIAVPj=vUt)P8I&O7rY%C&jWpHd^V`Xz9I&O7rY%C&jWprtBWpg4rZgp&IEFyAcc5i"
                "ECWFk6lb!==bB64MRZ);^_UuJJ|B06q$Y-}tdb7OCCWpg4rTOx90VPqm*EFyDtVrpe$bRs$;VPkD&B7F"
            ),
        },
    ),
    "peppered": (
        "kg_live_8IQ9Y7aJZqhB_6baeCN6Zj4a3dDVhYRnKTbxTNJFoBinF1wSM0S",
        None,
        {
            "key|8IQ9Y7aJZqhB": (
                "0RaF20000000030|NsC0|NnpGsFG#sdzhk&7vq6bwJq!d*FcUDwd-jVUA$Syd*)huB4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44"
                "Wo~vNIwEXoc4Z<gB4v1RX>w(AB06q$Y-"
                "}tdX=EZgA~;D=IaxPhN?LJfLLw|8ZDn*}WMOn+B0770EFx}Yba!uZYjYwxTU{(7Zf|s7Vr6D;a%CbqZgp&IEFy1rZe?;JIwE0XZD"
                "k@XB5-VBZX!Bvb!==bB5-"
                "nLW@&gLIwEUlA}k_uWpHd^V`XGtVtFDuZgp&IEFyAcaBN{?Wpg4rZgp&IEFyAcbZK&Bb0Ru!b!==bB64MRZ);^_B06q$Y-"
                "}tda%FaJYh`3#W^ZyLI&O7rY%C&kV{dR}b0RuhB64M6WFlQGB6D?OYGq?|B03^rV{K(3eE"
            ),
        },
    ),
    "second pepper": (
        "kg_live_5aJXVuLkSIc4_7WQAmL9xVQ2zg4mZaouqKLiMcVbpT4r51YahGj",
        None,
        {
            "key|5aJXVuLkSIc4": (
                "0RjL30000000030|NsC0|NnnE<qt>AbB8YM^u}X~XU=HVM+X_s-uU??l%HKw#Xj(RB4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44"
                "Wo~vNIwEXoc4Z<gB4v1RX>w(AB06q$Y-"
                "}tdX=EZgA~j)3SXOmRYg0*MG$Je_ZDn*}WMOn+B0770EFx}Yba!uZYjYwxTU{(7Zf|s7Vr6D;a%CbqZgp&IEFy1rZe?;JIwE0XZD"
                "k@XB5-VBZX!Bvb!==bB5-"
                "nLW@&gLIwEUlA}k_uWpHd^V`XGtVtFDuZgp&IEFyAcaBN{?Wpg4rZgp&IEFyAcbZK&Bb0Ru!b!==bB64MRZ);^_B06q$Y-"
                "}tda%FaJYh`3#W^ZyLI&O7rY%C&kV{dR}b0RuhT`VGVbz*8|V{{@qB4J}~Wg>k"
            ),
        },
    ),
    "revoked": (
        "kg_live_yHUig43kiJfa_hqSIjOugM1yTMAd7V3DnI8lFPPwtV5AS3Psb50",
        None,
        {
            "key|yHUig43kiJfa": (
                "0RaF20000000000fS4#3Wd;D=Mb3+>`u;H*{Pbi+ag=i+aSR3a)0)~J*mRMbiTSO2B4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44"
                "Wo~vNIwEXoc4Z<gB4v1RX>w(AB06q$Y-"
                "}tdX=EZgB6&zvX=gMuYiUYmVInLdZDn*}WMOn+B0770EFx}Yba!uZYjYwxTU{(7Zf|s7Vr6D;a%CbqZgp&IEFy1rZe?;JIwE0XZD"
                "k@XB5-VBZX!Bvb!==bB5-"
                "nLW@&gLIwEUlA}k_uWpHd^V`XGtVtFDuZgp&IEFyAcaBN{?Wpg4rZgp&IEFyAcbZK&Bb0Ru!b!==bB64MRZ);^_B04cRFfcGMFfc"
                "GMFfcGMFfc44a%FaJYh`3#W^ZyLIwEXkVQXb%A}k_vV{dR}b0RuhT`VGVbz*8|V{{@qB4J}~Wg>k"
            ),
        },
    ),
    "rotated": (
        "kg_live_PZHu8qRtZHjQ_MhuOzE95B9EgE0VrbBGI09QYNdaKy8is06Dulr",
        "kg_live_Wydfhl3Tvtny_thpZPPPP6UeP3C4DSA7Lc360a9Y6yNd13oi7Sh",
        {
            "key|PZHu8qRtZHjQ": (
                "0RaF20000000000BrN|IWd;D$%c_v3&qc`*(j@DQG>+^^<u-"
                "SqC=EHjAZhDeoZjbqB4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44Wo~vNIwEXoc4Z<gB4v1RX>w(AB06q$Y-"
                "}tdX=EZgB2ZdLbvSWSbXrJiQ6elNZDn*}WMOn+B0770EFx}Yba!uZYjYwxTU{(7Zf|s7Vr6D;a%CbqZgp&IEFy1rZe?;JIwE0XZD"
                "k@XB5-VBZX!Bvb!==bB5-nLW@&gLIwEUlA}k_uWpHd^V`XGtVtFDuB3F52W@v0PRCaW3c_J(#a%FIAVPj=;B06q$Y-"
                "}tda%FUBa%FQOIx#pfFfcGPHZU+SFfcGMFf1Z+Wp;0CWn>~cZgp&IEFyAcc5iECWM5`)aw0lzb!==bB6DMJaAk8MI$K>VB6D?OYG"
                "q?|B03^rV{K(3eE"
            ),
            "key|Wydfhl3Tvtny": (
                "0RaF20000000030|NsC0|NnnStyZ#&Ko(V3J?G842=MxT@PRBFo08#|F<Rm$5>WMfB4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44"
                "Wo~vNIwEXoc4Z<gB4v1RX>w(AB06q$Y-"
                "}tdX=EZgB3F52W@v0PRCaW3c_J(#ZDn*}WMOn+B0770EFx}Yba!uZYjYwxTU{(7Zf|s7Vr6D;a%CbqZgp&IEFy1rZe?;JIwE0XZD"
                "k@XB5-VBZX!Bvb!==bB5-"
                "nLW@&gLIwEUlA}k_uWpHd^V`XGtVtFDuZgp&IEFyAcaBN{?Wpg4rB2ZdLbvSWSbXrJiQ6elNa%FUBa%FQOI&O7rY%C&jWp;0CWn>"
                "~cZgp&IEFyAcc5iECWM5`)aw0lzb!==bB6DMJaAk8MI$K>VB6D?OYGq?|B03^rV{K(3eE"
            ),
        },
    ),
    "expiring": (
        "kg_live_4tDdO9eGzMcN_U77sVTUUJ596lLlGUriAX1DyyXN9iYw136hXN3",
        None,
        {
            "key|4tDdO9eGzMcN": (
                "0RaF2BrN|IWd;BM$iLMXWd;C=3}GWjxE-f?+yJvog_4QC*E9A$0G-"
                "umM8Y8AQ;)BEB4cu8VRU6=B04cRFfcGMFfcGMFfcGMFfc44Wo~vNIwEXoc4Z<gB4v1RX>w(AB04cRFfcGMH!?6VFfcGMFfc44X=E"
                "ZgA~bYFWKTI|M|w?TP9iKKZDn*}WMOn+B0770EFx}Yba!uZYjYwxTU{(7Zf|s7Vr6D;a%CbqF*q<VFfcPVFfcGMFfcGMEFy1rZe?"
                ";JIwE0XZDk@XB5-VBZX!Bvb!==bB5-"
                "nLW@&gLIwEUlA}k_uWpHd^V`XGtVtFDuZgp&IEFyAcaBN{?Wpg4rZgp&IEFyAcbZK&Bb0Ru!b!==bB64MRZ);^_B06q$Y-"
                "}tda%FaJYh`3#W^ZyLI&O7rY%C&kV{dR}b0RuhT`VGVbz*8|V{{@qB4J}~Wg>k"
            ),
        },
    ),
}

KEYS = {name: key for name, (key, _, _) in _WRITTEN.items()}
SUCCESSOR = _WRITTEN["rotated"][1] or ""
RECORDS = {key: b85decode(text) for _, _, found in _WRITTEN.values() for key, text in found.items()}
"""All of them, by the store's keys."""
