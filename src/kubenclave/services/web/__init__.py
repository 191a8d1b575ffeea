# SPDX-License-Identifier: Apache-2.0
"""What every service needs of HTTP: limits, who may do what, answers to errors, logs, health, TLS, workers."""
