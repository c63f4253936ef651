"""Registers that a path through machine code reads before it writes them."""

from __future__ import annotations

from napkin.runtime.unwritten import unwritten_reads

TWO_LOOPS = """
        /*0000*/                   ULDC UR4, c[0x0][0x210] ;
        /*0010*/              @!P0 BRA `(.L_x_1) ;
        /*0020*/                   UIADD3 UR8, UP0, UR4, 0x2, URZ ;
        /*0030*/                   UIADD3.X UR9, UR5, URZ, URZ, UP0, !UPT ;
.L_x_0:
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0050*/               @P1 BRA `(.L_x_0) ;
.L_x_1:
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   R2UR UR30, R1 ;
        /*0090*/                   UIADD3 UR31, UR33, 0x1, URZ ;
"""


def test_what_one_loop_computes_and_another_reads_is_found_if_the_first_may_be_skipped() -> None:
    reads = [each.partition(" ")[0] for each in unwritten_reads(TWO_LOOPS)]
    assert reads == ["UIADD3.X", "HGMMA.64x128x16.F32.BF16", "HGMMA.64x128x16.F32.BF16"]


def test_what_every_path_writes_is_written() -> None:
    ahead = "        /*0008*/                   UMOV UR5, URZ ;\n"
    whole = "        /*0009*/                   UIADD3.64 UR8, UR4, UR4, URZ ;\n"
    whole += "        /*000a*/                   UIADD3.64 UR10, UR4, UR4, URZ ;\n"
    head, branch, tail = TWO_LOOPS.partition("        /*0010*/")
    assert unwritten_reads(head + ahead + whole + branch + tail) == ()
    assert len(unwritten_reads(head + ahead + branch + tail)) == 2


def test_of_a_contraction_of_computed_rows_the_right_sides_descriptor_is_read() -> None:
    code = """
        /*0000*/                   UMOV UR10, 0x0 ;
        /*0010*/                   UMOV UR11, 0x0 ;
        /*0020*/                   HGMMA.64x64x16.F32.BF16 R88, R24, gdesc[UR8].tnspB, R88 ;
"""
    assert unwritten_reads(code) == ()
    assert len(unwritten_reads(code.replace("R24, gdesc", "gdesc"))) == 1


def test_a_result_may_follow_a_truth_value() -> None:
    code = """
        /*0000*/                   ULOP3.LUT UP0, UR16, URZ, 0x1, URZ, 0xc0, !UPT ;
        /*0010*/                   UIADD3 UR17, UP1, UR16, 0x2, URZ ;
        /*0020*/                   UISETP.GE.AND UP0, UPT, UR18, UR17, UPT ;
"""
    assert unwritten_reads(code) == ("UISETP.GE.AND UP0, UPT, UR18, UR17, UPT",)


def test_a_table_of_branches_leads_to_each_of_its_targets() -> None:
    code = """
        /*0000*/                   UMOV UR4, 0x0 ;
        /*0010*/                   BRX R2 -0x200 (*"BRANCH_TARGETS .L_x_2,.L_x_3"*) ;
.L_x_1:
        /*0020*/                   UMOV UR6, UR5 ;
.L_x_2:
        /*0030*/                   UMOV UR6, UR7 ;
.L_x_3:
        /*0040*/                   UMOV UR6, UR4 ;
"""
    assert unwritten_reads(code) == ("UMOV UR6, UR7",)
