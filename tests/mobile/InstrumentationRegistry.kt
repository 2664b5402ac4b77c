package androidx.test.platform.app

import android.app.Instrumentation

/** What runtime/mobile/android.md uses of androidx.test, to compile against. */
object InstrumentationRegistry {
    fun getInstrumentation(): Instrumentation = Instrumentation()
}
