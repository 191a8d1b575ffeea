# SPDX-License-Identifier: Apache-2.0
"""DCAP: is a quote genuine and current (verify), and is it what was wanted (appraise)?"""
